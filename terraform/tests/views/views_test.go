// Package views tests the SQL of terraform/views on DuckDB, with macros for what only
// BigQuery has. It is a module of its own, so that the function's has nothing of it.
package views

import (
	"bufio"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/duckdb/duckdb-go/v2"
	"github.com/google/go-cmp/cmp"
)

// macros are BigQuery's functions. NOW is in place of CURRENT_TIMESTAMP, so that an
// age is the same in every run. A function with SAFE. in front gives NULL in place of
// an error.
const macros = `
	SET TimeZone = 'UTC';
	CREATE SCHEMA SAFE;
	CREATE MACRO JSON_VALUE(j, p) AS json_extract_string(j, p);
	CREATE MACRO SAFE.JSON_VALUE(j, p) AS CASE WHEN json_valid(j) THEN json_extract_string(j, p) END;
	CREATE MACRO SAFE.PARSE_TIMESTAMP(f, s) AS CASE f WHEN '%Y-%m-%dT%H:%M:%E*SZ' THEN TRY_CAST(s AS TIMESTAMPTZ) ELSE error('another format') END;
	CREATE MACRO TIMESTAMP_ADD(t, i) AS t + i;
	CREATE MACRO UNIX_MILLIS(t) AS epoch_ms(t);
	CREATE MACRO CURRENT_TIMESTAMP() AS TIMESTAMPTZ '` + now + `';
	CREATE TABLE messages (
		alert_id VARCHAR, data VARCHAR, subscription_name VARCHAR, message_id VARCHAR, publish_time TIMESTAMPTZ, attributes VARCHAR
	);`

const now = "2026-03-10T00:00:00Z"

// row is a message as the subscription writes it.
type row struct {
	published  time.Time
	attributes map[string]string
	data       string
}

// database has the messages in a table, and the views over it.
func database(t *testing.T, rows []row) *sql.DB {
	t.Helper()
	db, err := sql.Open("duckdb", "")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1) // each connection has its own settings
	t.Cleanup(func() { db.Close() })
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
			t.Fatalf("%v in %s", err, query)
		}
	}
	exec(macros)
	for i, r := range rows {
		attributes, err := json.Marshal(r.attributes)
		if err != nil {
			t.Fatal(err)
		}
		var id any
		if r.attributes["alert_id"] != "" {
			id = r.attributes["alert_id"]
		}
		exec("INSERT INTO messages VALUES (?, ?, 's', ?, ?, ?)", id, r.data, fmt.Sprint(i), r.published, string(attributes))
	}
	versions := render(t, "versions", "${table}", "messages")
	for _, view := range []string{"alerts_current", "alerts_open", "alerts_lifecycle"} {
		exec("CREATE VIEW " + view + " AS " + render(t, view, "${versions}", versions, "${alerts_current}", "alerts_current"))
	}
	return db
}

// render does what templatefile does.
func render(t *testing.T, view string, oldnew ...string) string {
	t.Helper()
	text, err := os.ReadFile("../../views/" + view + ".sql")
	if err != nil {
		t.Fatal(err)
	}
	rendered := strings.NewReplacer(oldnew...).Replace(string(text))
	if strings.Contains(rendered, "${") {
		t.Fatalf("%s asks for something that Terraform doesn't give: %s", view, rendered)
	}
	return rendered
}

// query is the result as text, a line for each row, columns parted by |.
func query(t *testing.T, db *sql.DB, text string) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), text)
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{}
	for rows.Next() {
		values := make([]any, len(columns))
		targets := make([]any, len(columns))
		for i := range values {
			targets[i] = &values[i]
		}
		if err := rows.Scan(targets...); err != nil {
			t.Fatal(err)
		}
		cells := make([]string, len(values))
		for i, v := range values {
			switch v := v.(type) {
			case nil:
				cells[i] = "NULL"
			case time.Time:
				cells[i] = v.UTC().Format("01-02T15:04")
			default:
				cells[i] = fmt.Sprint(v)
			}
		}
		lines = append(lines, strings.Join(cells, "|"))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

func expect(t *testing.T, db *sql.DB, text string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, query(t, db, text)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", text, diff)
	}
}

// day is a time of March 2026.
func day(d int, hours ...float64) time.Time {
	at := time.Date(2026, 3, d, 0, 0, 0, 0, time.UTC)
	for _, h := range hours {
		at = at.Add(time.Duration(h * float64(time.Hour)))
	}
	return at
}

// version is a message of an alert that was created on the first of March at noon,
// published a minute after its updated_at.
func version(id, status string, updated time.Time) row {
	return row{
		published: updated.Add(time.Minute),
		attributes: map[string]string{
			"alert_id": id, "alert_type": "Paste", "severity": "high", "priority": "P1", "status": status,
			"created_at": stamp(day(1, 12)), "updated_at": stamp(updated),
		},
		data: fmt.Sprintf(`{"id":%q,"title":"Title of %s","status":%q}`, id, id, status),
	}
}

func stamp(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000Z") }

func TestCurrent(t *testing.T) {
	t.Parallel()
	ahead := version("ahead", "new", day(9))
	ahead.published = day(2)
	overtaken := version("overtaken", "new", day(2))
	overtaken.published = day(8)
	bare := version("bare", "", day(3))
	delete(bare.attributes, "status")
	delete(bare.attributes, "severity")
	delete(bare.attributes, "updated_at")
	bare.data = "no JSON"
	nothing := version("x", "new", day(2))
	nothing.attributes = map[string]string{}
	db := database(t, []row{
		version("once", "new", day(2)),
		version("twice", "new", day(2)), version("twice", "new", day(2)),
		version("changed", "new", day(2)), version("changed", "read", day(3)), version("changed", "closed", day(4)),
		version("overtaken", "escalated", day(5)), overtaken,
		// GTI's clock was wrong by a week: the next version is newer all the same.
		ahead, version("ahead", "read", day(4)),
		bare,
		nothing,
	})
	expect(t, db, "SELECT alert_id, status, severity, title, alert_type, updated_at FROM alerts_current ORDER BY alert_id",
		"ahead|read|high|Title of ahead|Paste|03-04T00:00",
		"bare|NULL|NULL|NULL|Paste|NULL",
		"changed|closed|high|Title of changed|Paste|03-04T00:00",
		"once|new|high|Title of once|Paste|03-02T00:00",
		"overtaken|escalated|high|Title of overtaken|Paste|03-05T00:00",
		"twice|new|high|Title of twice|Paste|03-02T00:00",
	)
}

// TestIncidentFormat: the title stands at the same place in both formats.
func TestIncidentFormat(t *testing.T) {
	t.Parallel()
	r := version("a", "new", day(2))
	r.data = `{"schema":"dtmrelay.incident/v1","title":"outer","alert":{"title":"inner"}}`
	expect(t, database(t, []row{r}), "SELECT title FROM alerts_current", "outer")
}

func TestOpen(t *testing.T) {
	t.Parallel()
	var rows []row
	for _, status := range []string{
		"new", "read", "escalated", "in_progress",
		"closed", "no_action_required", "duplicate", "not_relevant", "tracked_external", "a status of next year",
	} {
		rows = append(rows, version(status, status, day(2)))
	}
	reopened := []row{version("reopened", "closed", day(2)), version("reopened", "in_progress", day(3))}
	// 8 days and 12 hours from the first of March, noon, to now.
	expect(t, database(t, append(rows, reopened...)), "SELECT alert_id, priority, age_hours FROM alerts_open ORDER BY alert_id",
		"a status of next year|P1|204", "escalated|P1|204", "in_progress|P1|204", "new|P1|204", "read|P1|204", "reopened|P1|204")
}

func TestLifecycle(t *testing.T) {
	t.Parallel()
	reread := version("reopened", "read", day(2))
	reread.published = day(7) // delivered once more, much later
	severe := version("changed", "closed", day(2))
	severe.attributes["severity"] = "low"
	db := database(t, []row{
		version("new", "new", day(1, 12)),
		version("changed", "new", day(1, 12)), version("changed", "read", day(1, 13.5)), version("changed", "escalated", day(1, 20)), severe,
		version("closed at once", "new", day(1, 12)), version("closed at once", "duplicate", day(1, 13)),
		// Closed twice: it counts as closed since the second time.
		version("again", "closed", day(2)), version("again", "in_progress", day(3)), version("again", "not_relevant", day(4)), version("again", "closed", day(5)),
		version("reopened", "new", day(1, 12)), version("reopened", "read", day(2)), version("reopened", "closed", day(3)), version("reopened", "new", day(4)), reread,
		// A backfill saw it when all was over.
		version("late", "closed", day(6)),
	})
	expect(t, db, "SELECT alert_id, severity, status, first_seen, first_triaged, closed_at, hours_to_triage, hours_to_closure FROM alerts_lifecycle ORDER BY alert_id",
		"again|high|closed|03-02T00:01|03-02T00:00|03-04T00:00|12|60",
		"changed|low|closed|03-01T12:01|03-01T13:30|03-02T00:00|1.5|12",
		"closed at once|high|duplicate|03-01T12:01|03-01T13:00|03-01T13:00|1|1",
		"late|high|closed|03-06T00:01|03-06T00:00|03-06T00:00|108|108",
		"new|high|new|03-01T12:01|NULL|NULL|NULL|NULL",
		"reopened|high|new|03-01T12:01|03-02T00:00|NULL|12|NULL",
	)
	expect(t, db, `SELECT alert_type, severity, COUNT(*), COUNT(closed_at), AVG(hours_to_triage), AVG(hours_to_closure)
		FROM alerts_lifecycle GROUP BY alert_type, severity ORDER BY severity`,
		"Paste|high|5|3|33.25|56.333333333333336", "Paste|low|1|1|1.5|12")
}

// published are messages of the relay: the demo's, which kills the relay on the way
// and changes the status of an alert at the end.
func published(t *testing.T) []row {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "dtmrelay")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./internal/cmd/dtmrelay")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files := filepath.Join(dir, "files")
	if out, err := exec.CommandContext(t.Context(), binary, "demo", "--json", "--alerts", "500", "--latency", "1ms", "--dir", files).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file, err := os.Open(filepath.Join(files, "alerts.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var rows []row
	began := time.Now()
	scan := bufio.NewScanner(file)
	scan.Buffer(nil, 64<<20)
	for scan.Scan() {
		var line struct {
			Attributes map[string]string `json:"attributes"`
			Data       json.RawMessage   `json:"data"`
		}
		if err := json.Unmarshal(scan.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		// The file has no publish time. What was published later has a later one.
		at := began.Add(time.Duration(len(rows)) * time.Second)
		rows = append(rows, row{published: at, attributes: line.Attributes, data: string(line.Data)})
	}
	if err := scan.Err(); err != nil {
		t.Fatal(err)
	}
	return rows
}

// TestOfTheRelay: over what the relay published, the views say what a program in Go
// finds by the rules of docs/messages.md.
func TestOfTheRelay(t *testing.T) {
	t.Parallel()
	rows := published(t)
	db := database(t, rows)

	latest := map[string]map[string]string{}
	events := map[string]int{}
	for _, r := range rows {
		a := r.attributes
		events[a["event"]]++
		if known := latest[a["alert_id"]]; known == nil || a["updated_at"] > known["updated_at"] {
			latest[a["alert_id"]] = a
		}
	}
	if len(latest) != 500 || events["created"] < 500 || events["status_changed"] < 2 {
		t.Fatalf("the demo published %d alerts, %v", len(latest), events)
	}
	open, triaged, closed := 0, 0, 0
	for _, a := range latest {
		switch a["status"] {
		case "closed", "no_action_required", "duplicate", "not_relevant", "tracked_external":
			closed++
		default:
			open++
		}
		if a["status"] != "new" && a["status"] != "" {
			triaged++
		}
	}
	expect(t, db, "SELECT COUNT(*), COUNT(DISTINCT alert_id) FROM alerts_current", "500|500")
	expect(t, db, "SELECT COUNT(*), COUNT(age_hours) FROM alerts_open", fmt.Sprintf("%d|%[1]d", open))
	expect(t, db, "SELECT COUNT(*), COUNT(first_triaged), COUNT(closed_at), COUNT(hours_to_closure), COUNT(created_at) FROM alerts_lifecycle",
		fmt.Sprintf("500|%d|%d|%[2]d|500", triaged, closed))
	expect(t, db, "SELECT COUNT(*) FROM alerts_lifecycle WHERE hours_to_triage < 0 OR hours_to_closure < hours_to_triage OR first_seen < created_at", "0")

	for _, line := range query(t, db, "SELECT alert_id, JSON_VALUE(attributes, '$.dedupe_key'), status FROM alerts_current") {
		cells := strings.SplitN(line, "|", 3)
		if a := latest[cells[0]]; cells[1] != a["dedupe_key"] || cells[2] != a["status"] {
			t.Errorf("%s, and its latest version is %s, %s", line, a["dedupe_key"], a["status"])
		}
	}
	for _, r := range rows {
		if r.attributes["event"] == "status_changed" && r.attributes["origin"] == "writeback" {
			expect(t, db, "SELECT status, closed_at IS NOT NULL FROM alerts_lifecycle WHERE alert_id = '"+r.attributes["alert_id"]+"'", r.attributes["status"]+"|true")
			return
		}
	}
	t.Error("the demo's write-back did not come back")
}
