package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/config"
)

type reportCmd struct {
	Data   string   `placeholder:"DIR" help:"Report on the relay of this machine that keeps its data there."`
	Feed   string   `default:"default" env:"FEED" placeholder:"NAME" help:"With --data: the feed (${default})."`
	Alerts []string `placeholder:"FILE" sep:"none" help:"Report on these alerts: JSON lines as fetch prints them, or of messages as serve --local writes them; - is standard input. May be repeated."`
	Files  []string `arg:"" optional:"" name:"file" help:"More files of alerts."`
	Output string   `placeholder:"FILE" help:"Where the HTML file is written; - is standard output (report.html)."`

	Format reportFormat `placeholder:"FORMAT" help:"Print the figures, as table or json, and write no HTML."`
}

// reportFormat is one of those that a report has besides HTML; empty: the user named none.
type reportFormat outputFormat

// UnmarshalText reads a flag's value.
func (f *reportFormat) UnmarshalText(text []byte) error {
	if *f = reportFormat(text); !slices.Contains(reportFormats, string(text)) {
		return fmt.Errorf("%q is not allowed: it must be table or json; without it, HTML is written", text)
	}
	return nil
}

var reportFormats = []string{string(formatJSON), string(formatTable)}

func (reportCmd) Help() string {
	return `Writes one HTML file that needs nothing else and asks nobody: alerts a day by severity, by type and monitor, the open ones by age, how long triage and closure took, how late alerts came, and the requests to GTI. It holds no text of an alert but the names of its type and monitor. With --format table it prints the figures, with --format json too.

Several lines of one alert are one alert. Hours to triage and closure count from the alert's creation by GTI's clock. From files alone the requests are not known, and of alerts without messages neither is how late they came.

Examples:

	dtmrelay report --data dtmrelay-data --output report.html

	dtmrelay report --alerts january.jsonl --alerts february.jsonl

	dtmrelay fetch --since 720h --all | dtmrelay report --alerts - --format table`
}

// checkFeed checks the value of --feed, or of FEED.
func checkFeed(feed string) error {
	if !config.IsFeed(feed) {
		return fmt.Errorf("--feed (or FEED) is %q: it must be a small letter, then up to 62 small letters, digits and dashes", feed)
	}
	return nil
}

func (c *reportCmd) Validate() error {
	var errs []error
	if (c.Data == "") == (len(c.Alerts)+len(c.Files) == 0) {
		errs = append(errs, errors.New("the alerts come from --data DIR or from --alerts FILE: name one of them"))
	}
	if len(c.Alerts) == 0 && len(c.Files) > 0 && c.Data == "" {
		errs = append(errs, errors.New("files of alerts come after --alerts"))
	}
	if c.Data != "" {
		errs = append(errs, checkFeed(c.Feed))
	}
	if c.Format != "" && c.Output != "" {
		errs = append(errs, errors.New("--output is where the HTML file is written, and --format prints the figures: leave one out"))
	}
	return errors.Join(errs...)
}

func (c *reportCmd) Run(ctx context.Context) error {
	now := time.Now()
	var r *records
	var err error
	if c.Data != "" {
		r, err = readState(ctx, c.Data, c.Feed)
	} else {
		r, err = readFiles(ctx, append(c.Alerts, c.Files...), now)
	}
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case err != nil:
		return err
	}
	f := figuresOf(r, now)
	if f.Alerts == 0 {
		fmt.Fprintf(os.Stderr, "dtmrelay: there are no alerts in %s\n", clean(f.Source))
	}
	switch outputFormat(c.Format) {
	case formatJSON:
		return printJSON(os.Stdout, f, "  ")
	case formatTable:
		return printSections(os.Stdout, f)
	default:
		return c.writeHTML(f)
	}
}

func (c *reportCmd) writeHTML(f figures) error {
	page, err := htmlOf(f)
	if err != nil {
		return err
	}
	if c.Output == "-" {
		_, err := os.Stdout.Write(page)
		return err
	}
	path := c.Output
	if path == "" {
		path = "report.html"
	}
	if err := replaceFile(path, page); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d alerts, %d of them open: open %s in a browser\n", f.Alerts, f.Open, clean(path))
	return nil
}

// replaceFile writes a file for its owner alone. Who reads it meanwhile sees the old one.
// What is no file, such as a pipe or a device, is written to.
func replaceFile(path string, data []byte) (err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() { // also a link to nothing
		return writeTo(path, data)
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".dtmrelay-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(file.Name()))
		}
	}()
	_, writeErr := file.Write(data)
	if err := errors.Join(writeErr, file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

func writeTo(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Close())
}

//go:embed report.html.tmpl
var reportPage string

// htmlOf is the whole file. All that is foreign in it is escaped by the template.
func htmlOf(f figures) ([]byte, error) {
	page, err := template.New("report").Parse(reportPage)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = page.Execute(&out, struct {
		figures
		Generated string
		Sections  []section
	}{f, f.GeneratedAt.Format("2006-01-02 15:04 MST"), sectionsOf(f)})
	return out.Bytes(), err
}

// printSections prints the tables of a report.
func printSections(w io.Writer, f figures) error {
	fmt.Fprintf(w, "%s\n%d alerts in %s: %d open, %d closed", paint(w, bold, "DTM alerts"), f.Alerts, clean(f.Source), f.Open, f.Closed)
	if f.Dropped > 0 {
		fmt.Fprintf(w, ", %d dropped by rules", f.Dropped)
	}
	if f.Unusable > 0 {
		fmt.Fprintf(w, ", %d not usable", f.Unusable)
	}
	fmt.Fprintln(w)
	for _, s := range sectionsOf(f) {
		fmt.Fprintf(w, "\n%s\n", paint(w, bold, s.Title))
		if s.Note != "" {
			fmt.Fprintln(w, paint(w, dim, s.Note))
		}
		for i, t := range s.Tables {
			if i > 0 {
				fmt.Fprintln(w)
			}
			if err := printTable(w, headings(t.Head), t.Rows); err != nil {
				return err
			}
		}
	}
	return nil
}
