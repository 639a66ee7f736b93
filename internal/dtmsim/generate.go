package dtmsim

import (
	"cmp"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// Shape is how generated alerts are spread and what happens to them. The zero
// value spreads them evenly, each at its own moment, without a later life.
// Shares are between 0 and 1.
type Shape struct {
	// Size is about how many bytes an alert has without its document; 0 is 2,000.
	Size int
	// NoDoc leaves the document out, so that both forms share their memory.
	NoDoc bool
	// Plain leaves out the odd content.
	Plain bool

	// BurstShare of the alerts lie within BurstSpan of the time.
	BurstShare, BurstSpan float64
	// Ties is the share of alerts with the created_at of another.
	Ties float64
	// Late is the share of alerts that come into the index up to LateBy after
	// they were created; LateBy 0 is five minutes.
	Late   float64
	LateBy time.Duration
	// Rewritten is the share of alerts that get a summary, and a new updated_at,
	// 2 to 8 seconds after they were created (DTM API: timestamps).
	Rewritten float64
	// Closed is the share of alerts that are closed within ClosedWithin of their
	// creation, and so leave a filter by status; ClosedWithin 0 is ten minutes.
	Closed       float64
	ClosedWithin time.Duration
	// Malformed is the share of elements that are no usable alerts.
	Malformed float64
	// Huge makes as many alerts this large with their document; HugeSlim without
	// it too. In bytes.
	Huge, HugeSlim []int
}

// Typical is a shape with a little of everything that DTM is known to do.
func Typical() Shape {
	return Shape{Ties: 0.03, Late: 0.02, Rewritten: 0.3, Closed: 0.05}
}

const defaultAlertSize = 2000

// Types are the values of alert_type that are generated most.
var Types = []string{
	"Compromised Credentials", "Domain Discovery", "Forum Post", "Message",
	"Paste", "Shop Listing", "Tweet", "Web Content",
}

// Generate invents n alerts created in [from, to), in the order of created_at.
// The same arguments give the same alerts. All persons, places and secrets in
// them are made up, all domains are reserved ones.
func Generate(seed uint64, n int, from, to time.Time, shape Shape) []Alert {
	g := &generator{
		rng:   rand.New(rand.NewPCG(seed, 3)),
		from:  millis(from),
		span:  max(1, to.Sub(from).Milliseconds()),
		shape: shape,
	}
	g.shape.Size = cmp.Or(shape.Size, defaultAlertSize)
	g.shape.LateBy = cmp.Or(shape.LateBy, 5*time.Minute)
	g.shape.ClosedWithin = cmp.Or(shape.ClosedWithin, 10*time.Minute)
	g.burst = g.rng.Float64() * (1 - shape.BurstSpan)

	alerts := make([]Alert, n)
	malformedSoFar := 0
	for i := range alerts {
		created := g.moment()
		if i > 0 && g.hits(shape.Ties) {
			created = alerts[g.rng.IntN(i)].CreatedAt
		}
		a := g.alert(i, created)
		if g.hits(shape.Malformed) {
			a.Raw = []byte(malformed(malformedSoFar))
			a.Body, a.Slim, a.Changes = nil, nil, nil
			malformedSoFar++
		}
		alerts[i] = a
	}
	slices.SortFunc(alerts, func(x, y Alert) int {
		return cmp.Or(x.CreatedAt.Compare(y.CreatedAt), cmp.Compare(x.ID, y.ID))
	})
	return alerts
}

type generator struct {
	rng   *rand.Rand
	from  time.Time
	span  int64 // milliseconds
	burst float64
	shape Shape
}

func (g *generator) hits(share float64) bool { return share > 0 && g.rng.Float64() < share }

// moment is a created_at.
func (g *generator) moment() time.Time {
	at := g.rng.Float64()
	if g.hits(g.shape.BurstShare) {
		at = g.burst + at*g.shape.BurstSpan
	}
	return g.from.Add(time.Duration(min(int64(at*float64(g.span)), g.span-1)) * time.Millisecond)
}

// xid is an id whose second is that of created_at; the rest of it is random, so
// ids of one second are not in the order of their creation.
func (g *generator) xid(at time.Time) string {
	r := g.rng.Uint64()
	return xid(at, r>>24, uint32(r&0xffffff))
}

func (g *generator) uuid() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], g.rng.Uint64())
	binary.BigEndian.PutUint64(b[8:], g.rng.Uint64())
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	const hex = "0123456789abcdef"
	out := make([]byte, 0, 36)
	for i, v := range b {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			out = append(out, '-')
		}
		out = append(out, hex[v>>4], hex[v&15])
	}
	return string(out)
}

func pick[T any](g *generator, from []T) T { return from[g.rng.IntN(len(from))] }

// alert invents the ith alert. Its type and its oddity follow from i, so that
// some hundred alerts have every type and every oddity.
func (g *generator) alert(i int, created time.Time) Alert {
	m := pick(g, monitors)
	score := g.rng.IntN(101)
	kind := kinds[i%len(kinds)]
	a := Alert{
		ID: g.xid(created), CreatedAt: created, UpdatedAt: created, VisibleAt: created,
		Type: kind.alertType, Status: "new", Severity: pick(g, Severities),
		MonitorID: m.id, MonitorName: m.name, MScore: &score, Tags: []string{},
	}
	if g.rng.IntN(4) == 0 {
		a.Status = pick(g, Statuses)
	}
	if g.rng.IntN(5) == 0 {
		a.Tags = []string{pick(g, tags), pick(g, tags)}
	}
	a.HasAnalysis = g.rng.IntN(20) == 0

	c := g.content(kind, &a)
	if !g.shape.Plain {
		c.makeOdd(g, &a, i%oddities)
	}
	c.fill(g, &a, i)
	a.Body, a.Slim = c.write(g)

	if g.hits(g.shape.Late) {
		a.VisibleAt = created.Add(time.Millisecond + time.Duration(g.rng.Int64N(int64(g.shape.LateBy))))
	}
	if g.hits(g.shape.Rewritten) {
		summary := "This " + kind.docType + " mentions " + pick(g, terms) + ".\n"
		at := created.Add(2*time.Second + time.Duration(g.rng.IntN(6000))*time.Millisecond)
		a.Changes = append(a.Changes, Change{At: at, Apply: func(a *Alert) { a.Set("ai_doc_summary", summary) }})
	}
	if g.hits(g.shape.Closed) {
		at := created.Add(10*time.Second + millisOf(g.rng.Int64N(int64(g.shape.ClosedWithin))))
		a.Changes = append(a.Changes, Change{At: at, Apply: func(a *Alert) { a.Status = "closed" }})
	}
	return a
}

func millisOf(d int64) time.Duration { return time.Duration(d).Truncate(time.Millisecond) }

// content is an alert's members while it is written.
type content struct {
	members  []keyValue
	slim     map[string][]byte // what differs without the document
	shuffled bool
	indented bool
}

func (c *content) set(key string, value []byte) {
	for i := range c.members {
		if c.members[i].key == key {
			c.members[i].value = value
			return
		}
	}
	c.members = append(c.members, keyValue{key, value})
}

func (c *content) size() int {
	n := 2
	for _, m := range c.members {
		if m.value != nil && !slices.Contains(refsMembers, m.key) {
			n += len(m.key) + len(m.value) + 4
		}
	}
	return n
}

// write writes the alert with its document and without it.
func (c *content) write(g *generator) (body, slim []byte) {
	if c.shuffled {
		g.rng.Shuffle(len(c.members), func(i, j int) { c.members[i], c.members[j] = c.members[j], c.members[i] })
	}
	body = c.object(c.members)
	var rest []keyValue
	for _, m := range c.members {
		if slices.Contains(refsMembers, m.key) {
			continue
		}
		if other, differs := c.slim[m.key]; differs && !g.shape.NoDoc {
			m.value = other
		}
		rest = append(rest, m)
	}
	if g.shape.NoDoc {
		body = c.object(rest)
		return body, body
	}
	return body, c.object(rest)
}

func (c *content) object(members []keyValue) []byte {
	// Exactly as large as needed: there can be a million of them.
	text := make([]byte, 0, objectSize(members))
	text = appendObject(text, members)
	if c.indented {
		return indent(text)
	}
	return text
}

func objectSize(members []keyValue) int {
	n := 2
	for _, m := range members {
		if m.value != nil {
			n += len(m.key) + len(m.value) + 4
		}
	}
	return n
}

// fill brings the alert to its size.
func (c *content) fill(g *generator, a *Alert, i int) {
	size := g.shape.Size
	if i < len(g.shape.HugeSlim) {
		size = g.shape.HugeSlim[i]
	}
	matches := []byte("[")
	have := c.size()
	for have+len(matches) < size-120 && len(matches) < 16<<10 {
		if len(matches) > 1 {
			matches = append(matches, ',')
		}
		term := pick(g, terms)
		a.MatchValues = append(a.MatchValues, term)
		matches = append(matches, `{"topic_id":"`...)
		matches = append(matches, g.uuid()...)
		matches = append(matches, `","value":"`...)
		matches = append(matches, term...)
		matches = append(matches, `","term":"`...)
		matches = append(matches, term...)
		matches = append(matches, `","offsets":[`...)
		start := int64(g.rng.IntN(900))
		matches = strconv.AppendInt(matches, start, 10)
		matches = append(matches, ',')
		matches = strconv.AppendInt(matches, start+int64(len(term)), 10)
		matches = append(matches, "]}"...)
	}
	c.set("topic_matches", append(matches, ']'))
	if missing := size - c.size() - 20; missing > 120 {
		c.set("analysis", longText(missing))
	}
	if huge := i - len(g.shape.HugeSlim); huge >= 0 && huge < len(g.shape.Huge) {
		c.set("doc", slices.Concat([]byte(`{"__type":"huge","text":`), longText(g.shape.Huge[huge]-c.size()), []byte("}")))
	}
}

// longText is a JSON string of about so many bytes.
func longText(size int) []byte {
	const line = `Lorem ipsum at huge.example: \"dolor\" sit amet, ünïcødé 🐲 and more of it.\n`
	text := make([]byte, 0, max(0, size)+len(line)+2)
	text = append(text, '"')
	for len(text)+len(line) < size {
		text = append(text, line...)
	}
	return append(text, '"')
}
