package writeback

import (
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

const (
	// underWay is longer than a write-back takes from its echo's record to its version.
	underWay = 2 * time.Minute
	// skew is how late GTI's clock may be by ours.
	skew = 30 * time.Second
	// farAhead is how far an echo's version may be ahead of the moment of its write.
	farAhead = 24 * time.Hour
)

// MatchEcho says whether a version that is to be published is the echo of a
// write-back, and which echoes are left when it is published.
//
// A version is an echo when it has the updated_at that the write-back was answered
// with. It is also one when it ends in the status that was last written back: a later
// change may hide the version itself. An echo without a version belongs to a write
// whose answer is not known yet, or was lost in a crash. That one is also recognised
// by its time and by what was written.
func MatchEcho(rec state.Record, a dtm.Alert) (origin string, left []state.Echo) {
	at := findEcho(rec, a)
	for i, e := range rec.Echoes {
		// While the change is under way nobody knows its version: what was taken for it
		// may be somebody else's change to the same.
		leased := e.Version.IsZero() && rec.WriteLease != nil && a.UpdatedAt.Before(rec.WriteLease.ExpiresAt)
		mayCome := e.Version.IsZero() && rec.WriteLease == nil && a.UpdatedAt.Before(e.At.Add(underWay))
		if leased || i != at && (versionTime(e).After(a.UpdatedAt) || mayCome) {
			left = append(left, e)
		}
	}
	if at < 0 {
		return state.FromGTI, left
	}
	return state.FromWriteback, left
}

// hasOpenIntent reports whether there is a write of which nobody knows the end.
func hasOpenIntent(rec state.Record) bool {
	return slices.ContainsFunc(rec.Intents, func(in state.Intent) bool { return in.Open })
}

// findEcho is which of the echoes a version is, or -1.
func findEcho(rec state.Record, a dtm.Alert) int {
	exact := func(e state.Echo) bool { return e.Version.Equal(a.UpdatedAt) }
	if i := slices.IndexFunc(rec.Echoes, exact); i >= 0 {
		return i
	}
	status := dtm.Cut(a.Status, state.MaxFieldBytes)
	changed := rec.Known() && rec.Status != status
	tags, _ := a.Tags()
	last, unknown := -1, -1
	for i, e := range rec.Echoes {
		switch {
		case e.Version.IsZero() && a.UpdatedAt.Before(e.At.Add(-skew)): // from before it
		case e.Version.IsZero():
			soon := a.UpdatedAt.Before(e.At.Add(underWay))
			ends := changed && e.Status != "" && e.Status == status && (soon || hasOpenIntent(rec))
			same := rec.Known() && !changed && (e.Status == "" || e.Status == status) && (e.Tags == nil || sameTags(e.Tags, tags)) && soon
			if unknown < 0 && (ends || same) {
				unknown = i
			}
		case e.Status != "" && !versionTime(e).After(a.UpdatedAt) && (last < 0 || !versionTime(e).Before(versionTime(rec.Echoes[last]))):
			last = i
		}
	}
	if last >= 0 && changed && rec.Echoes[last].Status == status {
		return last
	}
	return unknown
}

// versionTime is the time that puts an echo among the versions: its own version, or
// when it was written where that lies far ahead, and so would come after all others
// for days. It is zero as long as the version is.
func versionTime(e state.Echo) time.Time {
	if e.Version.After(e.At.Add(farAhead)) {
		return e.At
	}
	return e.Version
}

func sameTags(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
