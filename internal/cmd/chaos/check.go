package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/message"
)

// evidence is what a run leaves.
type evidence struct {
	faults   []kind
	truth    map[string][]dtmsim.Alert // every version that GTI had of each alert, oldest first
	messages []published               // of the topic of alerts, in the order in which it took them
	rejects  []published
	wants    []want
	unacked  []string // write-backs that were never acknowledged
	output   []byte   // of all processes, and all answers
	ended    []string // processes that ended by themselves
}

type published struct {
	data       []byte
	attributes map[string]string
}

// want is how an alert has to stand at the end.
type want struct {
	id     string
	status string   // empty: any
	tags   []string // that it must have
	why    string
}

// verdict is what the checks found.
type verdict struct {
	Alerts     int      `json:"alerts"`
	Published  int      `json:"published"`
	Lost       int      `json:"lost"`         // alerts whose newest version was not published
	Back       int      `json:"back"`         // an older version after a newer one
	LateFrozen int      `json:"late_frozen"`  // the same, sent by a process that had stood still
	Repeats    int      `json:"repeats"`      // versions published again
	Unexpected int      `json:"unexplained"`  // of these, without a fault that explains it
	Writebacks int      `json:"writebacks"`   // alerts of which a state was asked for
	Undone     int      `json:"not_as_asked"` // of these, those that GTI has otherwise at the end
	Keys       int      `json:"keys"`         // places where the API key shows
	Problems   []string `json:"problems,omitempty"`
}

func (v *verdict) problem(format string, args ...any) {
	v.Problems = append(v.Problems, fmt.Sprintf(format, args...))
}

// check compares what was published with what GTI had.
func check(e evidence) verdict {
	v := verdict{Alerts: len(e.truth), Published: len(e.messages), Writebacks: len(e.wants)}
	v.checkVersions(e)
	v.checkLost(e)
	v.checkWritebacks(e)
	for _, m := range e.rejects {
		v.problem("rejected: %s %s", m.attributes["alert_id"], m.attributes["reason"])
	}
	for _, what := range e.ended {
		v.problem("a process ended by itself: %s", what)
	}
	if bytes.Contains(e.output, []byte(`"event":"panic"`)) || bytes.Contains(e.output, []byte("\npanic: ")) {
		v.problem("a process panicked")
	}
	v.checkKeys(e)
	return v
}

// checkVersions looks at each message: its version must be one that GTI had, with its
// bytes, and not older than what was published of the alert before.
func (v *verdict) checkVersions(e evidence) {
	type last struct{ updated, run string }
	newest := map[string]last{}
	byRun := map[[2]string]string{} // alert and run: the newest version that the run has sent
	times := map[string]int{}
	for _, m := range e.messages {
		id, updated, run := m.attributes["alert_id"], m.attributes["updated_at"], m.attributes["run_id"]
		i := slices.IndexFunc(e.truth[id], func(a dtmsim.Alert) bool { return message.Time(a.UpdatedAt) == updated })
		switch {
		case i < 0:
			v.problem("alert %s was published in a version that GTI never had: %s", id, updated)
		case !slices.ContainsFunc(elements(e.truth[id][i]), func(text []byte) bool { return bytes.Equal(text, m.data) }):
			v.problem("alert %s of %s was changed on its way: %s", id, updated, m.data)
		}
		key := m.attributes["dedupe_key"]
		if times[key]++; times[key] > 1 {
			v.Repeats++
			if !hasAny(e.faults, repeating...) {
				v.Unexpected++
				v.problem("%s was published %d times, and no fault explains it", key, times[key])
			}
			continue
		}
		switch before := newest[id]; {
		case updated >= before.updated:
			newest[id] = last{updated, run}
		case byRun[[2]string{id, run}] < updated && hasAny(e.faults, longFreeze):
			// What was on its way when the process was stopped.
			v.LateFrozen++
		default:
			v.Back++
			v.problem("alert %s of %s came from run %s after %s from run %s", id, updated, run, before.updated, before.run)
		}
		byRun[[2]string{id, run}] = max(byRun[[2]string{id, run}], updated)
	}
}

// elements are the ways in which GTI shows a version.
func elements(a dtmsim.Alert) [][]byte {
	return [][]byte{a.Element(false, true), a.Element(false, false), a.Element(true, true), a.Element(true, false)}
}

func (v *verdict) checkLost(e evidence) {
	for id, key := range missing(e.truth, e.messages) {
		v.Lost++
		v.problem("alert %s was not published in its newest version, %s", id, key)
	}
}

// missing are the alerts whose newest version was not published, with its dedupe_key.
func missing(truth map[string][]dtmsim.Alert, messages []published) map[string]string {
	lost := map[string]string{}
	for id, versions := range truth {
		lost[id] = message.DedupeKey(id, versions[len(versions)-1].UpdatedAt)
	}
	for _, m := range messages {
		if id := m.attributes["alert_id"]; lost[id] == m.attributes["dedupe_key"] {
			delete(lost, id)
		}
	}
	return lost
}

func (v *verdict) checkWritebacks(e evidence) {
	for _, w := range e.wants {
		versions := e.truth[w.id]
		if len(versions) == 0 {
			v.Undone++
			v.problem("GTI doesn't have alert %s, of which a write-back was asked for", w.id)
			continue
		}
		now := versions[len(versions)-1]
		without := slices.ContainsFunc(w.tags, func(tag string) bool { return !slices.Contains(now.Tags, tag) })
		if without || w.status != "" && now.Status != w.status {
			v.Undone++
			v.problem("alert %s is %s %v at the end, want %s %v: %s", w.id, now.Status, now.Tags, w.status, w.tags, w.why)
		}
	}
	for _, id := range e.unacked {
		v.problem("write-back %s was never acknowledged", id)
	}
}

func (v *verdict) checkKeys(e evidence) {
	found := func(where string, text []byte) {
		if bytes.Contains(text, []byte(apiKey)) {
			v.Keys++
			v.problem("the API key is in %s", where)
		}
	}
	found("the output of a process", e.output)
	for _, m := range slices.Concat(e.messages, e.rejects) {
		found("the data of a message", m.data)
		for _, name := range slices.Sorted(maps.Keys(m.attributes)) {
			found("the attribute "+name, []byte(m.attributes[name]))
		}
	}
}

func hasAny(faults []kind, wanted ...kind) bool {
	return slices.ContainsFunc(faults, func(k kind) bool { return slices.Contains(wanted, k) })
}

// result is a run's line in the folder.
type result struct {
	Seed    uint64  `json:"seed"`
	Faults  []kind  `json:"faults"`
	Seconds float64 `json:"seconds"`
	Runs    int     `json:"runs"`   // calls of POST /
	Killed  int     `json:"killed"` // processes that a signal ended
	Pushes  int     `json:"pushes"` // deliveries of write-backs
	verdict
}
