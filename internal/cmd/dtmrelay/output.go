package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"
	"golang.org/x/term"
)

// outputFlags are of a command that prints data.
type outputFlags struct {
	Format outputFormat `placeholder:"FORMAT" help:"json, jsonl, csv or table (a table on a terminal, JSON otherwise)."`
}

// outputFormat is one of the formats below; empty: the user named none.
type outputFormat string

const (
	formatJSON  outputFormat = "json"
	formatJSONL outputFormat = "jsonl"
	formatCSV   outputFormat = "csv"
	formatTable outputFormat = "table"
)

// UnmarshalText reads a flag's value.
func (f *outputFormat) UnmarshalText(text []byte) error {
	switch *f = outputFormat(text); *f {
	case formatJSON, formatJSONL, formatCSV, formatTable:
		return nil
	}
	return fmt.Errorf("%q is not allowed: it must be json, jsonl, csv or table", text)
}

// checkOutput refuses a dash, which elsewhere stands for a standard stream.
func checkOutput(path string) error {
	if path == "-" {
		return errors.New("--output is -: it must name a file; without it the alerts are on standard output")
	}
	return nil
}

// or is the format that the user named, or else a table on a terminal, and piped
// where w is none.
func (f outputFormat) or(w io.Writer, piped outputFormat) outputFormat {
	switch {
	case f != "":
		return f
	case isTerminal(w):
		return formatTable
	}
	return piped
}

// isTerminal reports whether a person reads what is written to w.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// isPipe reports whether another program reads what is written to w. It may print on the
// terminal that standard error is, too.
func isPipe(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&(os.ModeNamedPipe|os.ModeSocket) != 0
}

// takesEscapes reports whether w is a terminal that knows escape sequences.
func takesEscapes(w io.Writer) bool { return isTerminal(w) && os.Getenv("TERM") != "dumb" }

// A colour is the number of an ANSI escape sequence (ECMA-48, SGR).
type colour int

const (
	bold   colour = 1
	dim    colour = 2
	red    colour = 31
	green  colour = 32
	yellow colour = 33
)

// paint colours a text for a terminal, unless NO_COLOR (no-color.org) is set.
func paint(w io.Writer, c colour, text string) string {
	if !takesEscapes(w) || os.Getenv("NO_COLOR") != "" {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", c, text)
}

// cellColours are the colours of cells that are exactly this word.
var cellColours = map[string]colour{
	"critical": red, "high": red, "red": red, "failed": red, "disabled": red,
	"medium": yellow, "yellow": yellow, "partial": yellow,
	"green": green, "ok": green, "done": green,
}

// clean makes a foreign text harmless in a line of a terminal: what controls one,
// and what turns the direction of a text around, is left out, and a break of a line
// is a space.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case controls(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
}

// cleanJSON makes JSON harmless for a terminal and leaves its values as they are: what
// clean leaves out of a string is written as an escape sequence of JSON.
func cleanJSON(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == '\n':
			out = append(out, '\n')
		case r == utf8.RuneError && size == 1, controls(r):
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			out = append(out, text[:size]...)
		}
		text = text[size:]
	}
	return out
}

// controls reports whether a terminal may do something else with a character than
// show it.
func controls(r rune) bool {
	return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r)
}

// gap is what stands between two columns.
const gap = "  "

// idHeads are the heads of columns of ids, which people copy.
var idHeads = []string{"id", "alert", "backfill", "monitor"}

// printTable aligns the columns, numbers to the right. On a terminal cells are cut until
// a row fits its width, but for ids. The cells may be foreign text.
func printTable(w io.Writer, head []string, rows [][]string) error {
	return printRows(w, head, rows, true)
}

// printRows is printTable, with the head or, where it stands above them already, without.
func printRows(w io.Writer, head []string, rows [][]string, withHead bool) error {
	table := make([][]string, 0, 1+len(rows))
	for _, row := range append([][]string{head}, rows...) {
		var cells []string
		for _, cell := range row {
			cells = append(cells, clean(cell))
		}
		table = append(table, cells)
	}
	widths := make([]int, len(head))
	numeric, kinds := make([]bool, len(head)), make([]columnKind, len(head))
	for column, name := range head {
		numeric[column] = len(rows) > 0
		kinds[column] = isWord
		for i, row := range table {
			widths[column] = max(widths[column], uniseg.StringWidth(row[column]))
			numeric[column] = numeric[column] && (i == 0 || isNumber(row[column]))
			switch {
			case i == 0:
			case strings.IndexFunc(row[column], unicode.IsDigit) == 0:
				kinds[column] = max(kinds[column], isTime)
			case strings.Contains(row[column], " "):
				kinds[column] = isText
			}
		}
		if slices.Contains(idHeads, strings.ToLower(name)) {
			kinds[column] = isID
		}
	}
	beginsWithValue := len(head) > 0 && slices.Contains([]string{"state", "severity"}, strings.ToLower(head[0])) // not with a label
	fit(widths, kinds, terminalWidth(w))
	var text strings.Builder
	for i, row := range table {
		if i == 0 && !withHead {
			continue
		}
		var line strings.Builder
		for column, cell := range row {
			shown := fitWidth(cell, widths[column])
			pad := strings.Repeat(" ", widths[column]-uniseg.StringWidth(shown))
			if c, ok := cellColours[cell]; ok && i > 0 && (column > 0 || beginsWithValue) {
				shown = paint(w, c, shown)
			} else if i == 0 {
				shown = paint(w, bold, shown)
			}
			if column > 0 {
				line.WriteString(gap)
			}
			if numeric[column] {
				line.WriteString(pad + shown)
			} else {
				line.WriteString(shown + pad)
			}
		}
		text.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func isNumber(cell string) bool {
	return cell != "" && strings.Trim(cell, "0123456789.,%-") == ""
}

// terminalWidth is 0 where there is no terminal.
func terminalWidth(w io.Writer) int {
	if !isTerminal(w) {
		return 0
	}
	width, _, err := term.GetSize(int(w.(*os.File).Fd()))
	if err != nil {
		return 0
	}
	return width
}

// roomFor leaves out the spare columns of a table on a terminal that has less than so many
// columns: what is left can be read there.
func roomFor(w io.Writer, width int, head []string, rows [][]string, spare ...string) (fewer []string, fewerRows [][]string) {
	if has := terminalWidth(w); has == 0 || has >= width {
		return head, rows
	}
	keep := func(row []string) (cells []string) {
		for i, cell := range row {
			if !slices.Contains(spare, head[i]) {
				cells = append(cells, cell)
			}
		}
		return cells
	}
	for _, row := range rows {
		fewerRows = append(fewerRows, keep(row))
	}
	return keep(head), fewerRows
}

// columnKind says how willingly a column is cut.
type columnKind int

const (
	isWord columnKind = iota
	isTime            // or a number
	isText
	isID
)

// fit makes columns narrower, the widest first: those of text down to 8 characters, then
// those of text and words to 4, then all but ids to 1.
func fit(widths []int, kinds []columnKind, width int) {
	if width == 0 || len(widths) == 0 {
		return
	}
	over := len(gap)*(len(widths)-1) - width
	for _, w := range widths {
		over += w
	}
	for _, stage := range []struct {
		least int
		kinds []columnKind
	}{{8, []columnKind{isText}}, {4, []columnKind{isText, isWord}}, {1, []columnKind{isText, isWord, isTime}}} {
		for ; over > 0; over-- {
			widest := -1
			for i, w := range widths {
				if w > stage.least && slices.Contains(stage.kinds, kinds[i]) && (widest < 0 || w > widths[widest]) {
					widest = i
				}
			}
			if widest < 0 {
				break
			}
			widths[widest]--
		}
	}
}

// fitWidth shortens a text to a width in columns of a terminal, with an ellipsis at its end.
func fitWidth(text string, width int) string {
	if uniseg.StringWidth(text) <= width {
		return text
	}
	var out strings.Builder
	left := width - 1 // the ellipsis
	for clusters := uniseg.NewGraphemes(text); clusters.Next() && clusters.Width() <= left; {
		left -= clusters.Width()
		out.WriteString(clusters.Str())
	}
	return out.String() + "…"
}

// localTime is a moment in the local zone, to the second; "-" stands for none.
func localTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// age is how long before now a moment was, in its two largest units.
func age(t, now time.Time) string {
	d := now.Sub(t).Truncate(time.Second)
	form := "%s ago"
	if d < 0 {
		d, form = -d, "in %s"
	}
	days, hours, minutes, seconds := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case t.IsZero():
		return "-"
	case days > 0:
		return fmt.Sprintf(form, fmt.Sprintf("%dd%dh", days, hours))
	case hours > 0:
		return fmt.Sprintf(form, fmt.Sprintf("%dh%dm", hours, minutes))
	case minutes > 0:
		return fmt.Sprintf(form, fmt.Sprintf("%dm%ds", minutes, seconds))
	}
	return fmt.Sprintf(form, fmt.Sprintf("%ds", seconds))
}

// writeCSV writes RFC 4180 with CRLF.
func writeCSV(w io.Writer, head []string, rows [][]string) error {
	for _, row := range append([][]string{head}, rows...) {
		if err := writeRow(w, row); err != nil {
			return err
		}
	}
	return nil
}

// writeRow writes a record of CSV. A cell that a spreadsheet would take for a formula gets
// an apostrophe before it (OWASP, CSV injection).
func writeRow(w io.Writer, row []string) error {
	var record bytes.Buffer // it is written whole
	out := csv.NewWriter(&record)
	out.UseCRLF = true
	cells, shown := make([]string, 0, len(row)), isTerminal(w)
	for _, cell := range row {
		if shown {
			cell = clean(cell)
		}
		cell = cleanCell(cell)
		if cell != "" && strings.ContainsRune("=+-@\t\n", rune(cell[0])) {
			cell = "'" + cell
		}
		cells = append(cells, cell)
	}
	if err := out.Write(cells); err != nil {
		return err
	}
	out.Flush()
	_, err := w.Write(record.Bytes())
	return err
}

// cleanCell leaves out of a cell of CSV what clean leaves out: a terminal shows the file
// sooner or later. Whatever breaks a line there is a line break.
func cleanCell(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || !controls(r):
			return r
		case unicode.IsSpace(r):
			return '\n'
		}
		return -1
	}, strings.ReplaceAll(text, "\r\n", "\n"))
}

// partialError ends a command that has done a part of what it was asked for.
type partialError struct{ error }

func (e partialError) Unwrap() error { return e.error }

// endSignals are Ctrl-C, SIGTERM, and the end of the terminal.
var endSignals = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}

// commandContext ends with Ctrl-C, SIGTERM, or the end of the terminal. Of the first two a
// second one ends the process. The end of a terminal comes twice, from the system and from
// the shell, and nobody there waits.
func commandContext() (ctx context.Context, stop func()) {
	signals := endSignals
	if signal.Ignored(syscall.SIGHUP) { // by nohup
		signals = signals[:2]
	} else {
		signal.Notify(unreadSignals, syscall.SIGHUP) // also after stop
	}
	ctx, stop = signal.NotifyContext(context.Background(), signals...)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// endAtOnce lets signals end the process from now on, for a command that does not look at
// ctx. Its error is the one that has come before.
func endAtOnce(ctx context.Context) error {
	signal.Reset(endSignals...)
	return context.Cause(ctx)
}
