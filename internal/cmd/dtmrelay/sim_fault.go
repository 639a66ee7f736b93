package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

const faultHelp = `A fault is a list of words with commas between them. Which requests it hits:

	kind=list|page|get|patch|bulk|monitors|other   (any)
	nth=N      only the Nth of these
	every=N    every Nth of these
	chance=P   one of these with this probability, 0 to 1
	times=N    at most so often

What happens to them:

	status=N            this answer instead of the API's
	instead=error|null|object|list|other   200 with an error, null, {}, [] or another alert
	ignore-change       a change is answered with the alert as it was, and not made
	html                a page of HTML as of a proxy
	redirect=URL        an answer that leads to another place
	reset=before|after  the connection is reset, before or after the work is done
	hang                no answer; with truncate: silence after so many bytes
	after-work          with status, instead, html, redirect, hang: the work is done all the same
	retry-after=TEXT    this Retry-After header
	delay=D             so much later
	slow=N              N bytes a second
	truncate=N          the connection ends after N bytes
	empty-page=withheld|extra   an empty page with a Link, its alerts left out or kept for the next
	null-alerts         "alerts":null, and the alerts after the Link
	repeat-token        the Link repeats the page token
	again               the Link of a later page leads to that page once more, by a fresh token
	disorder            the page's order is turned around
	malformed=N         the Nth of some elements that are no alerts, within the page
	broken=N            the Nth of some elements that are no JSON, within the page
	link-host=URL       another base URL in the Link header`

// fault is a flag's value.
type fault struct{ dtmsim.Fault }

// UnmarshalText reads the words of faultHelp.
func (f *fault) UnmarshalText(text []byte) error {
	acts := false
	for word := range strings.SplitSeq(string(text), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(word), "=")
		known, err := f.condition(name, value)
		if !known {
			acts = true
			known, err = f.effect(name, value)
		}
		if !known {
			return fmt.Errorf("%q is none of the words of a fault", name)
		}
		if err != nil {
			return fmt.Errorf("%s=%s: %w", name, value, err)
		}
	}
	if !acts {
		return errors.New("it says which requests, but not what happens to them (for example status=503)")
	}
	return nil
}

// condition reads a word that says which requests a fault hits.
func (f *fault) condition(name, value string) (known bool, err error) {
	switch name {
	case "kind":
		err = oneOf(&f.Kind, value, dtmsim.List, dtmsim.Page, dtmsim.Get, dtmsim.Patch, dtmsim.Bulk, dtmsim.Monitors, dtmsim.Other)
	case "nth":
		err = number(&f.Nth, value, 1, maxNumber)
	case "every":
		err = number(&f.Every, value, 1, maxNumber)
	case "times":
		err = number(&f.Times, value, 1, maxNumber)
	case "chance":
		f.Chance, err = strconv.ParseFloat(value, 64)
		if err != nil || !(f.Chance > 0 && f.Chance <= 1) {
			err = errors.New("it must be more than 0 and at most 1")
		}
	default:
		return false, nil
	}
	return true, err
}

// effect reads a word that says what a fault does.
func (f *fault) effect(name, value string) (known bool, err error) {
	switch name {
	case "status":
		err = number(&f.Status, value, 200, 999)
	case "instead":
		err = oneOf(&f.Instead, value, dtmsim.InsteadError, dtmsim.InsteadNull, dtmsim.InsteadObject, dtmsim.InsteadList, dtmsim.InsteadOther)
	case "ignore-change":
		err = set(&f.IgnoreChange, value)
	case "html":
		err = set(&f.HTML, value)
	case "redirect":
		err = text(&f.Redirect, value)
	case "reset":
		var when string
		err = oneOf(&when, value, "before", "after")
		f.ResetBefore, f.ResetAfter = when == "before", when == "after"
	case "hang":
		err = set(&f.Hang, value)
	case "after-work":
		err = set(&f.AfterWork, value)
	case "retry-after":
		err = text(&f.RetryAfter, value)
	case "delay":
		f.Delay, err = time.ParseDuration(value)
		if err != nil || f.Delay <= 0 {
			err = errors.New("it must be a duration of more than 0, like 2s")
		}
	case "slow":
		err = number(&f.Slow, value, 1, maxNumber)
	case "truncate":
		err = number(&f.Truncate, value, 1, maxNumber)
	case "empty-page":
		err = oneOf(&f.EmptyPage, value, dtmsim.EmptyWithheld, dtmsim.EmptyExtra)
	case "null-alerts":
		err = set(&f.NullAlerts, value)
	case "repeat-token":
		err = set(&f.RepeatToken, value)
	case "again":
		err = set(&f.Again, value)
	case "disorder":
		err = set(&f.Disorder, value)
	case "malformed":
		err = nth(&f.MalformedElement, value, dtmsim.MalformedElements())
	case "broken":
		err = nth(&f.MalformedElement, value, dtmsim.BrokenElements())
	case "link-host":
		err = text(&f.ForeignLinkHost, value)
	default:
		return false, nil
	}
	return true, err
}

const maxNumber = 1 << 30

func number(into *int, value string, least, most int) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < least || n > most {
		return fmt.Errorf("it must be a whole number from %d to %d", least, most)
	}
	*into = n
	return nil
}

func nth(into *string, value string, of []string) error {
	var n int
	if err := number(&n, value, 1, len(of)); err != nil {
		return err
	}
	*into = of[n-1]
	return nil
}

func oneOf[T ~string](into *T, value string, allowed ...T) error {
	if !slices.Contains(allowed, T(value)) {
		return fmt.Errorf("it must be one of %v", allowed)
	}
	*into = T(value)
	return nil
}

func text(into *string, value string) error {
	if value == "" {
		return errors.New("it needs a value")
	}
	*into = value
	return nil
}

func set(into *bool, value string) error {
	if value != "" {
		return errors.New("it takes no value")
	}
	*into = true
	return nil
}
