package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"dtmrelay.internal/dtmrelay/internal/rules"
)

type rulesCmd struct {
	Check rulesCheckCmd `cmd:"" help:"Look for mistakes in a list of rules."`
	Test  rulesTestCmd  `cmd:"" help:"Show what rules make of alerts, without a change anywhere."`
}

func (rulesCmd) Help() string {
	return `Examples:

	dtmrelay rules check rules.json
	dtmrelay rules test rules.json --since 72h`
}

// ruleFile is a file that holds a list of rules.
type ruleFile string

// read returns the rules as they are written and compiled. Its error names all their
// problems.
func (f ruleFile) read(feed string) (rules.List, *rules.Rules, error) {
	input, err := openInput(string(f))
	if err != nil {
		return nil, nil, err
	}
	defer input.Close()
	const most = 16 << 20 // it may be an endless one
	text, err := io.ReadAll(io.LimitReader(input, most+1))
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", f, err)
	}
	if len(text) > most {
		return nil, nil, fmt.Errorf("%s has more than %d bytes: it must be a JSON list of rules", f, most)
	}
	if strings.TrimSpace(string(text)) == "" {
		return nil, nil, fmt.Errorf("%s is empty: it must be a JSON list of rules, or [] for none", f)
	}
	list, compiled, err := rules.Compile(string(text), feed)
	if err != nil {
		return nil, nil, fmt.Errorf("%s has problems:\n%s", f, cleanLines(err))
	}
	return list, compiled, nil
}

// cleanLines is what an error says, fit for a terminal: it quotes a file.
func cleanLines(err error) string {
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		lines[i] = clean(line)
	}
	return strings.Join(lines, "\n")
}

type rulesCheckCmd struct {
	File ruleFile `arg:"" help:"File with the JSON list of rules; - is standard input."`
	outputFlags
}

func (rulesCheckCmd) Help() string {
	return `Prints the rules when all are right. Else it prints every problem of every rule, and the exit code is 1: a mistake in a condition has line and column, and a name that doesn't exist the nearest one that does.

Examples:

	dtmrelay rules check rules.json

	# what is configured
	echo "$RULES" | dtmrelay rules check -`
}

func (c *rulesCheckCmd) Run(ctx context.Context) error {
	if err := endAtOnce(ctx); err != nil { // reading standard input would not end with ctx
		return err
	}
	list, _, err := c.File.read("default")
	if err != nil {
		return err
	}
	if err := c.print(os.Stdout, list); err != nil {
		return err
	}
	switch {
	case len(list) == 0:
		fmt.Fprintln(os.Stderr, "there are no rules: every alert is published, with the priority of its severity")
	case list.WritesBack():
		fmt.Fprintln(os.Stderr, "a rule writes to GTI: a deployed relay needs STATUS_TOPIC for it")
		fallthrough
	default:
		fmt.Fprintf(os.Stderr, "what they do to alerts: %s rules test FILE --since 72h\n", self())
	}
	return nil
}

// listedRule is a rule as the list has it.
type listedRule struct {
	Name string  `json:"name"`
	When string  `json:"when"`
	Then effects `json:"then"`
}

type effects struct {
	Priority  string   `json:"priority,omitempty"`
	Escalate  *bool    `json:"escalate,omitempty"`
	SetStatus string   `json:"set_status,omitempty"`
	Tags      []string `json:"tags,omitempty"`
	Drop      *bool    `json:"drop,omitempty"`
	Stop      bool     `json:"stop,omitempty"`
}

// ruleColumns are the columns of the table and of CSV.
var ruleColumns = []string{"name", "priority", "escalate", "drop", "set_status", "tags", "stop", "when"}

func (c *rulesCheckCmd) print(w io.Writer, list rules.List) error {
	listed := make([]listedRule, 0, len(list))
	rows := make([][]string, 0, len(list))
	for _, r := range list {
		listed = append(listed, listedRule{r.Name, r.When, effects{r.Priority, r.Escalate, r.SetStatus, r.Tags, r.Drop, r.Stop}})
		rows = append(rows, []string{
			r.Name, r.Priority, yesNo(r.Escalate), yesNo(r.Drop), r.SetStatus, strings.Join(r.Tags, ", "), yesNo(&r.Stop), r.When,
		})
	}
	return printAs(w, c.Format.or(w, formatJSON), ruleColumns, rows, listed)
}

// yesNo is empty for what a rule leaves as it is.
func yesNo(b *bool) string {
	if b == nil {
		return ""
	}
	return strconv.FormatBool(*b)
}

// printAs prints a list in a format.
func printAs[T any](w io.Writer, format outputFormat, head []string, rows [][]string, list []T) error {
	switch format {
	case formatTable:
		return printTable(w, headings(head), rows)
	case formatCSV:
		return writeCSV(w, head, rows)
	case formatJSONL:
		for _, one := range list {
			if err := printJSON(w, one, ""); err != nil {
				return err
			}
		}
		return nil
	case formatJSON:
	}
	return printJSON(w, list, "  ")
}

// headings are the names of columns as a table shows them.
func headings(names []string) []string {
	shown := make([]string, 0, len(names))
	for _, name := range names {
		shown = append(shown, strings.ToUpper(name))
	}
	return shown
}

// printJSON writes a value in JSON, on one line when the indent is empty.
func printJSON(w io.Writer, value any, indent string) error {
	var text strings.Builder
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(value); err != nil {
		return err
	}
	out := []byte(text.String())
	if isTerminal(w) {
		out = cleanJSON(out)
	}
	_, err := w.Write(out)
	return err
}
