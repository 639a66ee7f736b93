package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// filterFlags are the API's nine filters. A comma belongs to the value.
type filterFlags struct {
	MonitorID   []string `sep:"none" placeholder:"ID" help:"Alerts of this monitor. This flag and those like it can be repeated; one of the values must fit."`
	Status      []string `sep:"none" placeholder:"STATUS" help:"Alerts with this status, such as new."`
	AlertType   []string `sep:"none" placeholder:"TYPE" help:"Alerts of this type, such as \"Compromised Credentials\"."`
	Tags        []string `sep:"none" placeholder:"TAG" help:"Alerts with this tag."`
	MatchValue  []string `sep:"none" placeholder:"VALUE" help:"Alerts in which a monitor found this value."`
	Severity    []string `sep:"none" placeholder:"LEVEL" help:"Alerts of this severity: high, medium or low."`
	MScoreGTE   *int     `name:"mscore-gte" placeholder:"N" help:"Alerts with this indicator score at least, 0 to 100."`
	Search      string   `placeholder:"LUCENE" help:"Alerts that this Lucene expression finds."`
	HasAnalysis *bool    `negatable:"" help:"Alerts with an analysis of Google's analysts, or without (=false)."`
}

// problems are all of the flags' values.
func (f filterFlags) problems() error {
	// Of the others the filter knows each value that they may have.
	problems := []error{
		checkUTF8("monitor-id", f.MonitorID...), checkUTF8("alert-type", f.AlertType...), checkUTF8("tags", f.Tags...),
		checkUTF8("match-value", f.MatchValue...), checkUTF8("search", f.Search),
	}
	_, _, err := dtm.ParseFilter(dtm.Filter(f).String())
	if err == nil {
		return errors.Join(problems...)
	}
	for problem := range strings.Lines(err.Error()) {
		problems = append(problems, errors.New("--"+flagName(strings.TrimSpace(problem))))
	}
	return errors.Join(problems...)
}

// checkUTF8 refuses values that JSON can't hold: others would be sent in their place.
func checkUTF8(flag string, values ...string) error {
	for _, value := range values {
		if !utf8.ValidString(value) {
			return fmt.Errorf("--%s: %q is not valid UTF-8", flag, value)
		}
	}
	return nil
}

// over is a filter in which the flags, which have no problems, replace what they name.
func (f filterFlags) over(base dtm.Filter) dtm.Filter {
	flags := dtm.Filter(f)
	_, warnings, _ := dtm.ParseFilter(flags.String())
	for _, w := range warnings {
		fmt.Fprintln(os.Stderr, "dtmrelay: --"+flagName(w))
	}
	for _, list := range []struct{ flag, base *[]string }{
		{&flags.MonitorID, &base.MonitorID},
		{&flags.Status, &base.Status},
		{&flags.AlertType, &base.AlertType},
		{&flags.Tags, &base.Tags},
		{&flags.MatchValue, &base.MatchValue},
		{&flags.Severity, &base.Severity},
	} {
		if len(*list.flag) > 0 {
			*list.base = *list.flag
		}
	}
	if flags.MScoreGTE != nil {
		base.MScoreGTE = flags.MScoreGTE
	}
	if flags.Search != "" {
		base.Search = flags.Search
	}
	if flags.HasAnalysis != nil {
		base.HasAnalysis = flags.HasAnalysis
	}
	return base
}

// refsFlag says whether alerts come with their documents.
type refsFlag struct {
	Refs *bool `help:"With their documents, labels and topics, or without (=false); else as DTM_REFS says, and without if it isn't set."`
}

// refsValue adds to values what DTM_REFS is for the command.
func (f refsFlag) refsValue(values map[string]string) map[string]string {
	switch {
	case f.Refs != nil:
		values["DTM_REFS"] = strconv.FormatBool(*f.Refs)
	case variable("DTM_REFS") == "":
		values["DTM_REFS"] = "false"
	}
	return values
}

// flagName makes the flag's name of the parameter's with which a text begins.
func flagName(text string) string {
	name, rest, _ := strings.Cut(text, ":")
	return strings.ReplaceAll(name, "_", "-") + ":" + rest
}

// moment is a flag's value: a time, or how long ago it was.
type moment struct {
	at  time.Time
	ago time.Duration
}

// UnmarshalText reads a duration back from now or an RFC 3339 time.
func (m *moment) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	*m = moment{ago: d}
	at, ok := time.Now().Add(-d), err == nil && d >= 0
	if err != nil {
		at, ok = dtm.ParseTime(string(text))
		*m = moment{at: at}
	}
	if !ok || at.Year() < 1970 || at.Year() > 9999 {
		return fmt.Errorf("%q is not allowed: it must be a duration back from now, such as 72h, or a time, such as 2026-01-02T15:04:05Z, from the year 1970 on", text)
	}
	return nil
}

func (m moment) before(now time.Time) time.Time {
	if m.at.IsZero() {
		return now.Add(-m.ago)
	}
	return m.at.UTC()
}
