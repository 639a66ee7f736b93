package state

import (
	"strconv"
	"strings"
	"time"
)

// Place is where a page of backfills ends: the request time, in whole
// milliseconds, and the id of its last one.
type Place struct {
	RequestedAt time.Time
	ID          string
}

// String is a form that a URL takes as it is.
func (p Place) String() string {
	return strconv.FormatInt(p.RequestedAt.UnixMilli(), 10) + "." + p.ID
}

// ParsePlace reads what String made; anything else is ErrPlace.
func ParsePlace(s string) (Place, error) {
	ms, id, _ := strings.Cut(s, ".")
	at, err := strconv.ParseInt(ms, 10, 64)
	p := Place{RequestedAt: time.UnixMilli(at).UTC(), ID: id}
	year := p.RequestedAt.Year() // Firestore takes the years 1 to 9999
	if err != nil || year < 1 || year > 9999 || !ValidBackfillID(id) || p.String() != s {
		return Place{}, ErrPlace
	}
	return p, nil
}
