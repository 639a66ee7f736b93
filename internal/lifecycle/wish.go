package lifecycle

import (
	"slices"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// A record holds a wish for each change that was asked for. One is open from just
// before it is written to GTI until its own message is settled: while it is,
// nobody knows whether the write has been done, is under way, or was lost in a
// crash. Only its own message closes it. One that is not open was written, and
// stays to tell a later request from an earlier one.

const (
	// maxWishes is how many wishes a record keeps, but for those of the message at hand.
	maxWishes = 200
	// maxWishBytes bounds their texts, again without those of the message at hand,
	// which has at most 300 KB. A database takes no record above 1 MiB, and that one
	// would stop each run that meets the alert.
	maxWishBytes = 256 << 10
)

// wishes are the wishes that a request stands for.
func (r Request) wishes() []state.Wish {
	var list []state.Wish
	add := func(field string, values ...string) {
		list = append(list, state.Wish{Field: field, Values: values, At: r.At, By: r.By, Expect: r.Expect})
	}
	if r.Status != "" {
		add(state.WishStatus, r.Status)
	}
	if r.Tags != nil {
		add(state.WishTags, r.Tags...)
	}
	for _, tag := range r.AddTags {
		add(state.WishAddTag, tag)
	}
	for _, tag := range r.RemoveTags {
		add(state.WishRemoveTag, tag)
	}
	return list
}

// same reports whether two wishes are one, delivered twice.
func same(a, b state.Wish) bool {
	return a.Field == b.Field && a.At.Equal(b.At) && a.Expect == b.Expect && slices.Equal(a.Values, b.Values)
}

func find(list []state.Wish, w state.Wish) (state.Wish, bool) {
	i := slices.IndexFunc(list, func(o state.Wish) bool { return same(o, w) })
	if i < 0 {
		return state.Wish{}, false
	}
	return list[i], true
}

// beats reports whether x leaves nothing of y: it is later and for the same
// field. A list of tags is for every tag, a tag is not for the list. Of two
// requests of one moment the one that came later counts, as some clocks only
// know seconds.
func beats(x, y state.Wish) bool {
	if !x.At.After(y.At) && (!x.At.Equal(y.At) || x.Seq <= y.Seq) {
		return false
	}
	switch x.Field {
	case state.WishStatus:
		return y.Field == state.WishStatus
	case state.WishTags:
		return y.Field == state.WishTags || isTag(y)
	case state.WishAddTag, state.WishRemoveTag:
		return isTag(y) && strings.EqualFold(valueOf(x), valueOf(y))
	}
	return false // what a later version of this program asks for is none of these
}

func isTag(w state.Wish) bool {
	return w.Field == state.WishAddTag || w.Field == state.WishRemoveTag
}

func valueOf(w state.Wish) string {
	if len(w.Values) == 0 {
		return ""
	}
	return w.Values[0]
}

// isBeatenBefore reports whether an intent of the lists is for a later moment than w,
// and leaves nothing of it.
func isBeatenBefore(recorded, mine []state.Wish, w state.Wish) bool {
	return slices.ContainsFunc(slices.Concat(recorded, mine), func(o state.Wish) bool { return o.At.After(w.At) && beats(o, w) })
}

func isBeaten(list []state.Wish, w state.Wish) bool {
	return slices.ContainsFunc(list, func(o state.Wish) bool { return beats(o, w) })
}

// current is what GTI has of an alert.
type current struct {
	status  string
	tags    []string
	all     bool      // tags are all that there is in their place
	version time.Time // updated_at
}

// apply is the change that makes of an alert what the wishes ask for; it is
// empty when the alert is so already. Of the record's other wishes, those for
// single tags that are later than a new list of tags are part of that list.
func apply(alert current, wishes, recorded []state.Wish) dtm.Patch {
	var (
		change dtm.Patch
		status *state.Wish
		list   *state.Wish
	)
	for i, w := range wishes {
		switch {
		case isBeaten(recorded, w) || isBeaten(wishes, w):
		case w.Field == state.WishStatus:
			status = &wishes[i]
		case w.Field == state.WishTags:
			list = &wishes[i]
		}
	}
	if status != nil && valueOf(*status) != alert.status {
		change.Status = new(valueOf(*status))
	}
	want := slices.Clone(alert.tags)
	singles := wishes
	if list != nil {
		want = slices.Clone(list.Values)
		singles = slices.Concat(wishes, recorded)
	}
	for _, w := range singles {
		switch {
		case isBeaten(recorded, w) || isBeaten(wishes, w):
		case w.Field == state.WishAddTag && !holdsTag(want, valueOf(w)):
			want = append(want, valueOf(w))
		case w.Field == state.WishRemoveTag:
			want = slices.DeleteFunc(want, func(tag string) bool { return strings.EqualFold(tag, valueOf(w)) })
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
	// mine are the wishes of the message that are not settled, as the record has
	// them or as it will.
	mine []state.Wish
	// beaten are those that were begun, and are superseded by now.
	beaten []state.Wish
	done   bool // a wish of the message was settled before
}

// planFor says what is to be done for the wishes that were asked.
func planFor(rec state.Record, asked []state.Wish) plan {
	var p plan
	for _, w := range asked {
		old, found := find(rec.Wishes, w)
		switch {
		case found && !old.Open:
			p.done = true
			continue
		case found:
			w = old
		default:
			w.Seq, w.Open = rec.WishSeq+1, true
		}
		switch {
		case !isBeaten(rec.Wishes, w):
			p.mine = append(p.mine, w)
		case found:
			p.beaten = append(p.beaten, w)
		}
	}
	return p
}

// seq names the message among those of the record.
func (p plan) seq() int64 {
	for _, w := range slices.Concat(p.mine, p.beaten) {
		return w.Seq
	}
	return 0
}

// write puts the message's wishes into the record.
func (p plan) write(rec *state.Record, open bool) {
	rec.Wishes = slices.Clone(rec.Wishes)
	for i, w := range rec.Wishes {
		if _, beaten := find(p.beaten, w); beaten {
			rec.Wishes[i].Open = open
		}
	}
	kept := slices.DeleteFunc(slices.Clone(rec.Wishes), func(w state.Wish) bool {
		_, mine := find(p.mine, w)
		// Those of the same moment stay, or a duplicate of one would pass for the latest.
		return mine || !w.Open && isBeatenBefore(rec.Wishes, p.mine, w)
	})
	kept = dropOldest(kept, maxWishes-len(p.mine), maxWishBytes)
	for _, w := range p.mine {
		w.Open = open
		kept = append(kept, w)
		rec.WishSeq = max(rec.WishSeq, w.Seq)
	}
	rec.Wishes = kept
}

// remove takes the message's wishes out of the record, and reports whether there
// were any.
func remove(rec *state.Record, asked []state.Wish) bool {
	before := len(rec.Wishes)
	rec.Wishes = slices.DeleteFunc(slices.Clone(rec.Wishes), func(w state.Wish) bool {
		_, own := find(asked, w)
		return own
	})
	return len(rec.Wishes) < before
}

// dropOldest keeps n wishes, with so many bytes of text. Those that are open go
// last: their messages come again, and bring them back.
func dropOldest(list []state.Wish, n, bytes int) []state.Wish {
	held := 0
	for _, w := range list {
		held += textBytes(w)
	}
	for len(list) > max(0, n) || held > bytes {
		oldest := 0
		for i, w := range list {
			if o := list[oldest]; w.Open != o.Open && o.Open || w.Open == o.Open && w.Seq < o.Seq {
				oldest = i
			}
		}
		held -= textBytes(list[oldest])
		list = slices.Delete(list, oldest, oldest+1)
	}
	return list
}

func textBytes(w state.Wish) int { return len(w.By) + len(w.Expect) + bytesOf(w.Values) }

func bytesOf(texts []string) (n int) {
	for _, text := range texts {
		n += len(text)
	}
	return n
}
