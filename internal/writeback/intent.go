package writeback

import (
	"slices"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// A record holds an intent for each change that was asked for. One is open from just
// before it is written to GTI until its own message is completed: while it is,
// nobody knows whether the write has been done, is under way, or was lost in a
// crash. Only its own message closes it. One that is not open was written, and
// stays to tell a later request from an earlier one.

const (
	// maxIntents is how many intents a record keeps, but for those of the message at hand.
	maxIntents = 200
	// maxIntentBytes bounds their texts, again without those of the message at hand,
	// which has at most 300 KB. A database takes no record above 1 MiB, and that one
	// would stop each run that meets the alert.
	maxIntentBytes = 256 << 10
)

// intents are the intents that a request stands for.
func (r Request) intents() []state.Intent {
	var list []state.Intent
	// A rule asks once. Anybody else may ask for the same a second time, and means it.
	once := r.Skip && strings.HasPrefix(r.By, byRule)
	add := func(field string, values ...string) {
		list = append(list, state.Intent{Field: field, Values: values, At: r.At, By: r.By, Expect: r.Expect, Once: once})
	}
	if r.Status != "" {
		add(state.IntentStatus, r.Status)
	}
	if r.Tags != nil {
		add(state.IntentTags, r.Tags...)
	}
	for _, tag := range r.AddTags {
		add(state.IntentAddTag, tag)
	}
	for _, tag := range r.RemoveTags {
		add(state.IntentRemoveTag, tag)
	}
	return list
}

// sameIntent reports whether two intents are one, delivered twice.
func sameIntent(a, b state.Intent) bool {
	return a.Field == b.Field && a.At.Equal(b.At) && a.Expect == b.Expect && slices.Equal(a.Values, b.Values)
}

func findIntent(list []state.Intent, in state.Intent) (state.Intent, bool) {
	i := slices.IndexFunc(list, func(o state.Intent) bool { return sameIntent(o, in) })
	if i < 0 {
		return state.Intent{}, false
	}
	return list[i], true
}

// supersedes reports whether x leaves nothing of y: it is later and for the same
// field. A list of tags is for every tag, a tag is not for the list. Of two
// requests of one moment the one that came later counts, as some clocks only
// know seconds.
func supersedes(x, y state.Intent) bool {
	if !x.At.After(y.At) && (!x.At.Equal(y.At) || x.Seq <= y.Seq) {
		return false
	}
	switch x.Field {
	case state.IntentStatus:
		return y.Field == state.IntentStatus
	case state.IntentTags:
		return y.Field == state.IntentTags || isTag(y)
	case state.IntentAddTag, state.IntentRemoveTag:
		return isTag(y) && strings.EqualFold(valueOf(x), valueOf(y))
	}
	return false // what a later version of this program asks for is none of these
}

func isTag(in state.Intent) bool {
	return in.Field == state.IntentAddTag || in.Field == state.IntentRemoveTag
}

func valueOf(in state.Intent) string {
	if len(in.Values) == 0 {
		return ""
	}
	return in.Values[0]
}

// isOutdated reports whether one of the intents that are done is for a later moment than
// in, and leaves nothing of it. One whose sender asks once is outdated by that sender
// alone: until then it tells a repeat of the request (isRepeat).
func isOutdated(list []state.Intent, in state.Intent) bool {
	return slices.ContainsFunc(list, func(o state.Intent) bool {
		return !o.Open && o.At.After(in.At) && supersedes(o, in) && (!in.Once || o.By == in.By)
	})
}

// isRepeat reports whether the sender of an intent was served with the same before,
// and has asked for nothing else for this field since. A rule whose message was
// published twice asks so: what others did between the two must stand.
func isRepeat(recorded []state.Intent, in state.Intent) bool {
	return slices.ContainsFunc(recorded, func(o state.Intent) bool {
		same := o.Field == in.Field && o.By == in.By && slices.Equal(o.Values, in.Values)
		return same && !o.Open && !slices.ContainsFunc(recorded, func(x state.Intent) bool { return x.By == o.By && supersedes(x, o) })
	})
}

func isSuperseded(list []state.Intent, in state.Intent) bool {
	return slices.ContainsFunc(list, func(o state.Intent) bool { return supersedes(o, in) })
}

// current is what GTI has of an alert.
type current struct {
	status  string
	tags    []string
	all     bool      // tags are all that there is in their place
	version time.Time // updated_at
	undated bool      // it has none that can be read
}

// apply is the change that makes of an alert what the intents ask for; it is
// empty when the alert is so already. Of the record's other intents, those for
// single tags that are later than a new list of tags are part of that list.
func apply(alert current, intents, recorded []state.Intent) dtm.Patch {
	var (
		change dtm.Patch
		status *state.Intent
		list   *state.Intent
	)
	for i, in := range intents {
		switch {
		case isSuperseded(recorded, in) || isSuperseded(intents, in):
		case in.Field == state.IntentStatus:
			status = &intents[i]
		case in.Field == state.IntentTags:
			list = &intents[i]
		}
	}
	if status != nil && valueOf(*status) != alert.status {
		change.Status = new(valueOf(*status))
	}
	want := slices.Clone(alert.tags)
	singles := intents
	if list != nil {
		want = slices.Clone(list.Values)
		singles = slices.Concat(intents, recorded)
	}
	for _, in := range singles {
		switch {
		case isSuperseded(recorded, in) || isSuperseded(intents, in):
		case in.Field == state.IntentAddTag && !holdsTag(want, valueOf(in)):
			want = append(want, valueOf(in))
		case in.Field == state.IntentRemoveTag:
			want = slices.DeleteFunc(want, func(tag string) bool { return strings.EqualFold(tag, valueOf(in)) })
		}
	}
	if !sameSet(alert.tags, want) || list != nil && !alert.all {
		if want == nil {
			want = []string{}
		}
		change.Tags = &want
	}
	return change
}

// sameSet reports whether two lists hold the same tags, without regard to case
// and order.
func sameSet(a, b []string) bool {
	return !slices.ContainsFunc(a, func(tag string) bool { return !holdsTag(b, tag) }) &&
		!slices.ContainsFunc(b, func(tag string) bool { return !holdsTag(a, tag) })
}

func isEmpty(p dtm.Patch) bool { return p.Status == nil && p.Tags == nil }

// plan is what a message still has to do about an alert, by the alert's record.
type plan struct {
	// mine are the intents of the message that are not completed, as the record has
	// them or as it will.
	mine []state.Intent
	// superseded are those that were begun, and are superseded by now.
	superseded []state.Intent
	done       bool // an intent of the message, or what it repeats, was completed before
	// undecided: a later request has begun that would supersede an intent of the message,
	// and GTI may refuse that one yet.
	undecided bool
}

// planFor says what is to be done for the intents that were asked.
func planFor(rec state.Record, asked []state.Intent) plan {
	var p plan
	decided := slices.DeleteFunc(slices.Clone(rec.Intents), func(in state.Intent) bool {
		_, own := findIntent(asked, in)
		return in.Open && !own
	})
	for _, in := range asked {
		old, found := findIntent(rec.Intents, in)
		switch {
		case found && !old.Open:
			p.done = true
			continue
		case !found && in.Once && isRepeat(rec.Intents, in):
			p.done = true
			continue
		case found:
			in = old
		default:
			in.Seq, in.Open = rec.IntentSeq+1, true
		}
		switch {
		case !isSuperseded(rec.Intents, in):
			p.mine = append(p.mine, in)
		case !isSuperseded(decided, in):
			p.undecided = true
		case found:
			p.superseded = append(p.superseded, in)
		}
	}
	return p
}

// seq names the message among those of the record.
func (p plan) seq() int64 {
	for _, in := range slices.Concat(p.mine, p.superseded) {
		return in.Seq
	}
	return 0
}

// write puts the message's intents into the record.
func (p plan) write(rec *state.Record, open bool) {
	rec.Intents = slices.Clone(rec.Intents)
	for i, in := range rec.Intents {
		if _, begun := findIntent(p.superseded, in); begun {
			rec.Intents[i].Open = open
		}
	}
	mine := slices.Clone(p.mine)
	for i, in := range mine {
		mine[i].Open = open
		rec.IntentSeq = max(rec.IntentSeq, in.Seq)
	}
	all := slices.Concat(rec.Intents, mine)
	kept := slices.DeleteFunc(rec.Intents, func(in state.Intent) bool {
		_, own := findIntent(mine, in)
		// Intents of the same moment stay, or a duplicate of one would pass for the latest.
		// So do those before one that is open: GTI may refuse that one, and then they tell
		// a duplicate from a new request.
		return own || !in.Open && isOutdated(all, in)
	})
	rec.Intents = append(dropOldest(kept, maxIntents-len(mine), maxIntentBytes), mine...)
}

// remove takes the message's intents out of the record.
func remove(rec *state.Record, asked []state.Intent) {
	rec.Intents = slices.DeleteFunc(slices.Clone(rec.Intents), func(in state.Intent) bool {
		_, own := findIntent(asked, in)
		return own
	})
}

// dropOldest keeps n intents, with so many bytes of text. Those that are open go
// last: their messages come again, and bring them back.
func dropOldest(list []state.Intent, n, bytes int) []state.Intent {
	held := 0
	for _, in := range list {
		held += textBytes(in)
	}
	for len(list) > max(0, n) || held > bytes {
		oldest := 0
		for i, in := range list {
			if o := list[oldest]; in.Open != o.Open && o.Open || in.Open == o.Open && in.Seq < o.Seq {
				oldest = i
			}
		}
		held -= textBytes(list[oldest])
		list = slices.Delete(list, oldest, oldest+1)
	}
	return list
}

func textBytes(in state.Intent) int { return len(in.By) + len(in.Expect) + bytesOf(in.Values) }

func bytesOf(texts []string) (n int) {
	for _, text := range texts {
		n += len(text)
	}
	return n
}
