package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// problems is what an answer to a wrong body says.
type problems struct {
	Detail   string
	Errors   []string
	Problems int
}

// refused sends a body that is wrong.
func refused(t *testing.T, path, body string) (p problems) {
	t.Helper()
	store := openStore(t)
	occupy(t, store)
	w := httptest.NewRecorder()
	newIngest(t, store, http.NotFoundHandler()).
		ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(body)))
	if size := w.Body.Len(); size > 16<<10 {
		t.Errorf("an answer of %d bytes", size)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != http.StatusBadRequest {
		t.Fatalf("POST %s: %d %s", path, w.Code, w.Body)
	}
	return p
}

// TestARepeatedFieldIsAProblem: of two values nobody knows which one was meant.
func TestARepeatedFieldIsAProblem(t *testing.T) {
	for _, c := range []struct{ path, body, name string }{
		{"/", `{"dry_run":true,"dry_run":false}`, "dry_run"},
		{"/", `{"dry_run":true,"dry_run":null}`, "dry_run"},
		{"/backfill", `{"since":"96h","until":"48h","since":"96h"}`, "since"},
	} {
		want := `the field "` + c.name + `" is named more than once`
		if diff := cmp.Diff(problems{want, []string{want}, 1}, refused(t, c.path, c.body)); diff != "" {
			t.Errorf("%s %s: %s", c.path, c.body, diff)
		}
	}
}

// TestWhatIsMeantForTheBody: a run that is none of what was asked for would publish.
func TestWhatIsMeantForTheBody(t *testing.T) {
	for _, c := range []struct{ path, body, want string }{
		{"/?dry_run=true", "", "takes no query"},
		{"/backfill?since=96h", `{"since":"96h"}`, "takes no query"},
		{"/", "\u00a0", "not valid JSON"},
	} {
		if p := refused(t, c.path, c.body); !strings.Contains(p.Detail, c.want) {
			t.Errorf("POST %s %q: %q, want %q", c.path, c.body, p.Detail, c.want)
		}
	}
}

// TestAWrongSinceIsNotMissing, too.
func TestAWrongSinceIsNotMissing(t *testing.T) {
	const missing = `the field "since" is missing; allowed: an RFC 3339 time, or a duration back from now such as "72h"`
	for body, want := range map[string][]string{
		`{"since":5}`:                                 {`the field "since" is 5; allowed: a string`},
		`{"since":[],"since":5}`:                      {`the field "since" is named more than once`, `the field "since" is 5; allowed: a string`},
		`{"dry_run":true,"dry_run":true}`:             {`the field "dry_run" is named more than once`, missing},
		`{"since":null}`:                              {missing},
		`{"since":"96h","until":"95h","suspected":1}`: {`the field "suspected" is 1; allowed: true or false`},
		`{"since":""}`:                                {missing},
	} {
		if diff := cmp.Diff(want, refused(t, "/backfill", body).Errors); diff != "" {
			t.Errorf("%s: %s", body, diff)
		}
	}
}

// TestOnlyTheFirstProblemsAreListed: whatever a body of a megabyte holds.
func TestOnlyTheFirstProblemsAreListed(t *testing.T) {
	fields := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"x%04d%s":1`, i, strings.Repeat("y", 150))
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		path, body string
		want       int
	}{
		"as many as are listed": {"/", `{"dry_run":true` + fields(20) + `}`, 20},
		"unknown fields":        {"/", `{"dry_run":true` + fields(4711) + `}`, 4711},
		"a field again":         {"/", `{"dry_run":true` + strings.Repeat(`,"dry_run":true`, 4000) + `}`, 4000},
		"items of a filter":     {"/backfill", `{"since":"96h","filter":{"status":["new"` + strings.Repeat(`,1`, 5000) + `]}}`, 5000},
		"values of a filter":    {"/backfill", `{"since":"96h","filter":{"severity":["` + strings.Repeat("z", 1e6) + `"]}}`, 1},
		"a name of a filter":    {"/backfill", `{"since":"96h","filter":{"` + strings.Repeat("z", 1e5) + `":1,"` + strings.Repeat("z", 1e5) + `":1}}`, 3},
		"a long id":             {"/backfill", `{"since":"96h","id":"audit-` + strings.Repeat("z", 1e6) + `"}`, 2},
	} {
		t.Run(name, func(t *testing.T) {
			got := refused(t, c.path, c.body)
			detail := strings.Join(got.Errors, "; ")
			if c.want > 20 {
				detail += fmt.Sprintf("; and %d more", c.want-20)
			}
			if got.Problems != c.want || len(got.Errors) != min(c.want, 20) || got.Detail != detail {
				t.Errorf("%d problems, of which %d are listed: %.300s", got.Problems, len(got.Errors), got.Detail)
			}
		})
	}
}
