package rules_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// withTopics is an alert with so many topics, a body of so many bytes, and a title.
func withTopics(topics, body int, title string) dtm.Alert {
	list := make([]string, topics)
	for i := range list {
		list[i] = fmt.Sprintf(`{"type":"email_address","value":"%d@example.com"}`, i)
	}
	return alert(fmt.Sprintf(`"title":%q,"topics":[%s],"doc":{"body":%q}`, title, strings.Join(list, ","), strings.Repeat("a", body)))
}

// TestBoundedCalls: a call that would take all memory, or hours, is not begun. The test
// would end with the first of them.
func TestBoundedCalls(t *testing.T) {
	skipShort(t)
	const tooMuch = "it costs more than the limit"
	large, small := withTopics(3000, 900_000, "%.999999999f"), withTopics(500, 20_000, "%.999999999f")
	for _, tc := range []struct {
		when         string
		large, small string // why it fails for each
	}{
		{"alert.topics.map(t, alert.doc.body).join(',').size() > 1", tooMuch, tooMuch},
		{"alert.topics.map(t, 'x').join(alert.doc.body).size() > 1", tooMuch, tooMuch},
		{"'%s'.format([alert.topics.map(t, alert.doc.body)]).size() > 1", tooMuch, tooMuch},
		{"alert.title.format([1.0]).size() > 1", tooMuch, tooMuch},
		{"alert.doc.body.replace('a', alert.doc.body).size() > 1", tooMuch, tooMuch},
		{"alert.doc.body.replace('', alert.doc.body).size() > 1", tooMuch, tooMuch},
		{"alert.doc.body.replace('a', alert.doc.body, 10).size() > 1", tooMuch, ""},
		{"(alert.doc.body + 'b').indexOf(alert.doc.body + 'c') == -1", tooMuch, tooMuch},
		{"(alert.doc.body + 'b').lastIndexOf(alert.doc.body + 'c') == -1", tooMuch, tooMuch},
		{"alert.topics.map(t, alert.topics) == alert.topics.map(t, alert.topics)", tooMuch, ""},
		{"alert.topics.map(t, alert.topics) != alert.topics.map(t, alert.topics)", tooMuch, ""},
		{"alert.topics.map(t, alert.topics) in [alert.topics.map(t, alert.topics)]", tooMuch, ""},
		{"[alert.topics.map(t, alert.topics)].exists(x, alert.topics.map(t, x) == alert.topics.map(t, x))", tooMuch, tooMuch},
		{"alert.topics.map(t, {'a': alert.topics}) == alert.topics.map(t, {'a': alert.topics})", tooMuch, ""},
		{"alert.topics.map(t, optional.of(alert.topics)) == alert.topics.map(t, optional.of(alert.topics))", tooMuch, ""},
		{"alert.doc.body.matches('(?i)[a-z ]{0,900}(vpn|sso)$')", tooMuch, ""},
		{"alert.doc.body.matches(r'(?i)\\b(malware|ransomware)\\b')", "", ""},
		{"alert.doc.body.matches(alert.doc.body)", tooMuch, tooMuch},
		{"(alert.doc.body + alert.doc.body + alert.doc.body).split('').size() == 1", tooMuch, ""},
		{"(alert.doc.body + alert.doc.body + alert.doc.body).split('', 3).size() == 1", "", ""},
		{"(alert.doc.body + alert.doc.body + alert.doc.body).reverse() == ''", tooMuch, ""},
		{"(alert.doc.body + alert.doc.body + alert.doc.body).substring(0, 3) == 'b'", "", ""},
		{"(alert.doc.body + alert.doc.body + alert.doc.body).charAt(3) == 'b'", "", ""},
		// Each is little, and all of them are much.
		{"alert.topics.all(t, alert.doc.body.size() > 0)", tooMuch, ""},
		{"alert.topics.all(t, size(alert.doc.body) > 0)", tooMuch, ""},
		{"alert.topics.all(t, bytes(alert.doc.body) > b'a')", tooMuch, tooMuch},
		{"alert.topics.all(t, alert.doc.body < 'abb')", tooMuch, ""},
		{"alert.topics.exists(t, int(alert.doc.body) > 1)", tooMuch, "a function can't use a value that it is given"},
		{"alert.topics.all(t, now.getHours('Europe/Berlin') < 25)", tooMuch, ""},
		{"alert.topics.all(t, alert.topics == alert.topics)", tooMuch, ""},
		{"alert.topics.all(t, alert.topics.map(u, u.value).join(',') != '')", tooMuch, tooMuch},
		{"alert.topics == alert.topics && 'x' in alert.raw == false && alert.topics.map(t, t.value).join(',').indexOf('7@') > 0", "", ""},
	} {
		for name, size := range map[string]struct {
			alert dtm.Alert
			want  string
		}{"large": {large, tc.large}, "small": {small, tc.small}} {
			t.Run(name+"/"+tc.when[:min(50, len(tc.when))], func(t *testing.T) {
				r := compile(t, one(tc.when, `{"drop":true}`))
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				got := r.Evaluate(size.alert, "created", "", true, now)
				runtime.ReadMemStats(&after)
				why := ""
				if len(got.Failed) > 0 {
					why = got.Failed[0].Reason
				}
				if why != size.want {
					t.Errorf("it fails with %q, want %q", why, size.want)
				}
				if used := after.TotalAlloc - before.TotalAlloc; used > 500<<20 {
					t.Errorf("%d MiB were allocated", used>>20)
				}
			})
		}
	}
}
