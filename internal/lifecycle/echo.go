package lifecycle

import (
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
)

const (
	// underWay is longer than a write-back takes from its mark to its version.
	underWay = 2 * time.Minute
	// skew is how far GTI's clock may be behind ours.
	skew = 30 * time.Second
	// farAhead is how far a mark's version may be ahead of the moment of its write.
	farAhead = 24 * time.Hour
)

// comesRound says whether a version that is to be published is what the relay
// itself wrote to GTI, and which marks are left when it is published.
//
// It is when it has the updated_at that the write-back was answered with, or
// when it ends in the status that was last written back: a later change may hide
// the version itself. A mark without a version is of a write whose answer is not
// known yet, or was lost in a crash; such a one is also known by its time, and
// what was written.
func comesRound(rec state.Record, a dtm.Alert) (origin string, left []state.Echo) {
	at := echoIn(rec, a)
	for i, e := range rec.Echoes {
		mayCome := e.Version.IsZero() && (a.UpdatedAt.Before(e.At.Add(underWay)) || pending(rec))
		// While the change is under way nobody knows its version: what was taken for it
		// may be somebody else's change to the same.
		guessed := e.Version.IsZero() && rec.WriteLease != nil
		if (i != at || guessed) && (written(e).After(a.UpdatedAt) || mayCome) {
			left = append(left, e)
		}
	}
	if at < 0 {
		return state.FromGTI, left
	}
	return state.FromWriteback, left
}

// pending reports whether there is a write of which nobody knows the end.
func pending(rec state.Record) bool {
	return slices.ContainsFunc(rec.Wishes, func(w state.Wish) bool { return w.Open })
}

// echoIn is which of the marks a version is, or -1.
func echoIn(rec state.Record, a dtm.Alert) int {
	exact := func(e state.Echo) bool { return e.Version.Equal(a.UpdatedAt) }
	if i := slices.IndexFunc(rec.Echoes, exact); i >= 0 {
		return i
	}
	status := message.Cut(a.Status)
	changed := rec.Known() && rec.Status != status
	last, unknown := -1, -1
	for i, e := range rec.Echoes {
		switch {
		case e.Version.IsZero() && a.UpdatedAt.Before(e.At.Add(-skew)): // from before it
		case e.Version.IsZero():
			soon := a.UpdatedAt.Before(e.At.Add(underWay))
			ends := changed && e.Status != "" && e.Status == status && (soon || pending(rec))
			tags, _ := a.Tags()
			same := rec.Known() && !changed && (e.Status == "" || e.Status == status) && (e.Tags == nil || sameTags(e.Tags, tags)) && soon
			if unknown < 0 && (ends || same) {
				unknown = i
			}
		case e.Status != "" && !written(e).After(a.UpdatedAt) && (last < 0 || !written(e).Before(written(rec.Echoes[last]))):
			last = i
		}
	}
	if last >= 0 && changed && rec.Echoes[last].Status == status {
		return last
	}
	return unknown
}

// written is the time that puts a mark among the versions: its own version, or
// when it was written where that lies far ahead, and so would come after all others
// for days. It is zero as long as the version is.
func written(e state.Echo) time.Time {
	if e.Version.After(e.At.Add(farAhead)) {
		return e.At
	}
	return e.Version
}

func sameTags(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
