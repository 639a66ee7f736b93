package state

import (
	"strconv"
	"strings"
	"time"
)

// Cursor is where a page of backfills ends: the request time, in whole
// milliseconds, and the id of its last one.
type Cursor struct {
	RequestedAt time.Time
	ID          string
}

// String is a form that a URL takes as it is.
func (c Cursor) String() string {
	return strconv.FormatInt(c.RequestedAt.UnixMilli(), 10) + "." + c.ID
}

// ParseCursor reads what String made; anything else is ErrCursor.
func ParseCursor(s string) (Cursor, error) {
	ms, id, _ := strings.Cut(s, ".")
	at, err := strconv.ParseInt(ms, 10, 64)
	c := Cursor{RequestedAt: time.UnixMilli(at).UTC(), ID: id}
	year := c.RequestedAt.Year() // Firestore takes the years 1 to 9999
	if err != nil || year < 1 || year > 9999 || !ValidBackfillID(id) || c.String() != s {
		return Cursor{}, ErrCursor
	}
	return c, nil
}
