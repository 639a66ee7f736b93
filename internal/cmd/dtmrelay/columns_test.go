package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestColumnsAreDocumented: the table of docs/cli.md has the columns of each command's CSV.
func TestColumnsAreDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| `--format csv` of |")
	table, _, _ = strings.Cut(table, "\n\n")
	documented := map[string]string{}
	for line := range strings.Lines(table) {
		if cells := strings.Split(strings.TrimSpace(line), " | "); len(cells) == 3 {
			documented[cells[0]] = cells[2]
		}
	}
	for _, c := range []struct {
		commands string
		columns  []string
	}{
		{"`fetch`, `alert get`", csvColumns},
		{"`poll`, `backfill start` for its alerts", slices.Concat([]string{"event"}, csvColumns)},
		{"`backfill start` for what became of it, `backfill list`, `show`, `cancel`", backfillColumns},
		{"`alert history`", historyColumns},
		{"`alert set`", setColumns},
		{"`status`", statusColumns},
		{"`rules check`", ruleColumns},
		{"`rules test`", triedColumns},
		{"`doctor`", findingColumns},
		{"`redrive`", redriveColumns},
	} {
		want := "`" + strings.Join(c.columns, "`, `") + "` |"
		if got := documented["| "+c.commands]; got != want {
			t.Errorf("%s: docs/cli.md says\n%s\nand the columns are\n%s", c.commands, got, want)
		}
	}
}
