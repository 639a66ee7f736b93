package app_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// problems sends a body that is wrong, and returns the answer.
func problems(t *testing.T, path, body string) (detail string, errors []string) {
	t.Helper()
	store := openStore(t)
	occupy(t, store)
	w := httptest.NewRecorder()
	newIngest(t, store, http.NotFoundHandler()).
		ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(body)))
	var p struct {
		Detail string
		Errors []string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != http.StatusBadRequest {
		t.Fatalf("POST %s: %d %s", path, w.Code, w.Body)
	}
	return p.Detail, p.Errors
}

// TestARepeatedFieldIsAProblem: of two values nobody knows which one was meant.
func TestARepeatedFieldIsAProblem(t *testing.T) {
	for _, c := range []struct{ path, body, name string }{
		{"/", `{"dry_run":true,"dry_run":false}`, "dry_run"},
		{"/", `{"dry_run":true,"dry_run":null}`, "dry_run"},
		{"/backfill", `{"since":"96h","until":"48h","since":"96h"}`, "since"},
	} {
		want := `the field "` + c.name + `" is named more than once`
		detail, errors := problems(t, c.path, c.body)
		if diff := cmp.Diff([]string{want}, errors); diff != "" || detail != want {
			t.Errorf("%s %s: %q %s", c.path, c.body, detail, diff)
		}
	}
}
