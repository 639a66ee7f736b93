package protocol

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// sources are the functions that the models stand for, and what the models assume of
// them. Every expression and every statement of the function that reads like one of a list
// must be there as often as the list has it, in the list's order. An item that ends in
// "(" is any call of that function. A method that the list calls with arguments may be
// called with no others.
var sources = []struct {
	folder, function string
	inOrder          []string
}{
	// A run reads the document, takes the lease on that, works, and gives it back.
	{"drain", "Runner.live", []string{"r.open(", "state.Acquire(deadlines.storing, r.Store, r.Feed, r.RunID, feed, found.Revision)", "w.runAll(", "w.release("}},
	{"drain", "Runner.open", []string{"r.Usage.Open("}},
	{"drain", "UsageCounter.load", []string{"u.store.Open("}},
	{"drain", "work.release", []string{"w.holder.Release("}},
	{"drain", "work.runAll", []string{"w.drainLive(feed)", "w.changes(", "w.drainLive(w.holder.Feed())"}},
	{"drain", "work.drainLive", []string{"ledger.Options{CheckLease: w.checkLease, DryRun: w.dryRun}", "w.holder.Update", "f.Slices, f.RereadFrom, f.Gaps, f.Refusal = p.Slices, p.RereadFrom, p.Gaps, p.Refusal"}},

	// The lease is free, or its time is over. Only then is it written, with a condition.
	{"state", "state.Acquire", []string{"time.Now()", "f.Lease != nil && now.Before(f.Lease.ExpiresAt)", "f.Lease = &Lease{Owner: owner}", "f.Writer = owner", "f.Generation++", "revision: v", "confirmed: now", "h.write(h.ctx)", "errors.Is(err, ErrLost)", "h.keep()"}},
	// A write has the revision as its condition, ends with the lease, and counts from when
	// it was sent. After a failed condition the holder looks whose write is stored.
	{"state", "Holder.write", []string{
		"sent := time.Now()", "h.feed.Write++", "sent.Add(LeaseFor)", "f := h.feed.Clone()", "h.confirmed.Add(LostAfter)",
		"context.WithDeadline(ctx, deadline)", "h.store.WriteFeed(ctx, h.name, f, h.revision)",
		"errors.Is(err, ErrConflict)", "h.store.Open(", "now.Generation != f.Generation || now.Writer != f.Writer",
		"stored = now.Write == f.Write", "sent = now.Lease.ExpiresAt.Add(-LeaseFor)", "h.revision, h.confirmed = v, sent",
	}},
	{"state", "Holder.CheckLease", []string{"context.Cause(h.ctx)", "h.overdue()", "h.cancel(err)"}},
	{"state", "Holder.overdue", []string{"sinceBoth(h.confirmed)", "since < LostAfter"}},
	{"state", "Holder.Release", []string{"close(h.quit)", "h.stopWriting()", "h.CheckLease()", "last(&h.feed)", "h.feed.Lease = nil", "h.write("}},

	// The position moves only after the processor, and over no error.
	{"drain", "reader.fetch", []string{"r.engine.source.List(ctx, l.query)"}},
	{"drain", "reader.handle", []string{"r.engine.claim(", "processor.Process(", "err != nil", "counts.Handled == len(p.alerts)", "r.engine.advance("}},
	{"drain", "engine.advance", []string{"s.DoneUntil = to", "e.checkpoint()"}},
	{"drain", "engine.checkpoint", []string{"append(e.progress.Slices, s.Slice)", "e.save("}},
	{"drain", "sweepReader.pass", []string{"s.source.List(", "s.handle(working, page, brought, p)"}},
	{"drain", "work.sweep", []string{"began := w.clock.now().Truncate(ms)", "w.sweepListing(", "w.sweepFailed(fetching, err, kinds[i:], began)", "w.swept(began)"}},
	{"drain", "work.sweepFailed", []string{"w.handOver(kinds, began)", "w.swept(began)"}},

	// Look up, decide, look at the lease, publish, record.
	{"ledger", "Processor.process", []string{"p.lookUp(", "p.decide(", "p.publishAndRecord", "deliver("}},
	{"ledger", "Processor.publishAndRecord", []string{"p.CheckLease()", "p.requestWritebacks(", "p.publish(", "it.outcome != \"\"", "append(acked, it)", "p.record(ctx, acked)"}},
	{"ledger", "Processor.publish", []string{"p.Publisher.Publish(", "err == nil", "it.outcome = state.Published", "failed == nil", "p.CheckLease()", "p.Publisher.Reject(", "err == nil", "it.outcome = state.Rejected"}},
	{"ledger", "Processor.lookUp", []string{"p.Cache.version(", "p.Store.Records("}},
	{"ledger", "Processor.actionFor", []string{"a.UpdatedAt.Equal(newest.UpdatedAt)", "a.UpdatedAt.Before(rec.HandledVersion)", "a.UpdatedAt.Equal(rec.HandledVersion)", "rec.HandledVersion.IsZero() && !p.isNew(a)"}},
	{"ledger", "Processor.record", []string{"p.write(", "p.merge(", "err != nil", "p.Cache.note("}},
	{"ledger", "Processor.write", []string{"p.CheckLease()", "entries[i] = it.entry", "change(it, &entries[i].Record, now)", "p.Store.WriteRecords(", "errors.Is(err, state.ErrConflict)", "p.reread(ctx, items)"}},
	{"ledger", "Processor.reread", []string{"p.Store.Records(", "it.entry = entries[i]"}},
	{"ledger", "Processor.merge", []string{"dated, first := isDated(*rec, a), !wasPublished(*rec, a)", "!version.Before(rec.HandledVersion)", "rec.HandledVersion = version", "if first", "rec.PublishedVersion = version"}},

	// The topic's call is short.
	{"publish", "PubSub.call", []string{"context.WithTimeoutCause(ctx, callTimeout, errTimeout)", "p.client.Publish("}},

	// A write-back.
	{"writeback", "Writer.Handle", []string{"ParseRequest(", "w.write(", "w.options.Rejects.Reject("}},
	{"writeback", "delivery.run", []string{"d.awaitLeaseEnd(", "planFor(entry.Record, d.asked)", "p.undecided", "len(p.mine)+len(p.superseded) == 0", "len(p.mine) == 0", "d.completeUnchanged(work, entry, p)", "d.attempt(work, entry, p)"}},
	{"writeback", "writeback.planFor", []string{"in.Open && !own", "found && !old.Open", "!isSuperseded(rec.Intents, in)", "!isSuperseded(decided, in)", "p.undecided = true"}},
	{"writeback", "plan.write", []string{"own || !in.Open && isOutdated(all, in)"}},
	{"writeback", "writeback.isOutdated", []string{"!o.Open && o.At.After(in.At) && supersedes(o, in) && (!in.Once || o.By == in.By)"}},
	{"writeback", "delivery.awaitLeaseEnd", []string{"d.read(", "entry.Record.WriteLease == nil", "min(time.Until(seen.ExpiresAt), leaseTime-time.Since(since))", "left <= 0"}},
	{"writeback", "delivery.attempt", []string{"d.getNewest(", "d.withdraw(ctx, entry, err)", "d.change(entry.Record, p, alert)", "d.withdraw(ctx, entry, err)", "d.completeUnchanged(ctx, entry, p)", "d.begin(ctx, entry, p, echo)", "d.update(", "d.giveUp(", "d.get(", "d.withdrawBegun(", "d.completeChanged("}},
	{"writeback", "delivery.change", []string{"apply(alert, p.mine, rec.Intents)", "d.expect != \"\" && alert.status != d.expect && !isEmpty(change)", "errConflict"}},
	{"writeback", "delivery.begin", []string{"p.write(rec, true)", "append(rec.Echoes, echo)", "rec.WriteLease = &lease", "d.record(ctx, entry)", "d.lease, d.takenAt = lease, now"}},
	{"writeback", "delivery.getNewest", []string{"d.get(ctx)", "!isStale(alert.version, rec)", "errStale"}},
	{"writeback", "delivery.get", []string{"api.Get("}},
	{"writeback", "delivery.update", []string{"d.takenAt.Add(patchTime)", "!time.Now().Round(0).Before(end.Round(0))", "errUnsent", "context.WithDeadlineCause(ctx, end, errSlow)", "api.Update("}},
	{"writeback", "delivery.giveUp", []string{"d.withdrawBegun(", "isOver(err)", "d.releaseLease("}},
	{"writeback", "delivery.completeChanged", []string{"d.releaseLease(", "planFor(*rec, d.asked).write(rec, false)"}},
	{"writeback", "delivery.releaseLease", []string{"d.read(", "!d.holds(entry.Record)", "entry.Record.WriteLease = nil", "edit(", "d.record(ctx, entry)"}},
	{"writeback", "delivery.completeUnchanged", []string{"entry.Record.WriteLease = nil", "p.write(&entry.Record, false)", "d.record(ctx, entry)"}},
	{"writeback", "delivery.withdraw", []string{"entry.Record.WriteLease = nil", "remove(&entry.Record, d.asked)", "entry.Record.IntentSeq++", "d.record(ctx, entry)"}},
	{"writeback", "delivery.withdrawBegun", []string{"d.releaseLease(", "remove(rec, d.asked)"}},
	{"writeback", "delivery.record", []string{"d.writer.options.Ledger.WriteRecords(", "errors.Is(err, state.ErrConflict)"}},
}

// TestSource fails when the code and the models drift apart.
func TestSource(t *testing.T) {
	known := map[string]bool{"": true}
	for _, s := range sources {
		known[s.function] = true
		t.Run(s.function, func(t *testing.T) {
			decl, files := parseFolder(t, s.folder).function(t, s.function)
			if diff := cmp.Diff(s.inOrder, like(decl, files, s.inOrder)); diff != "" {
				t.Errorf("internal/%s: the models assume another order of what %s does: change both (-model +code)\n%s", s.folder, s.function, diff)
			}
		})
	}
	for i, s := range steps {
		if !known[s.function] {
			t.Errorf("step %d stands for %s, of which nothing is checked", i, s.function)
		}
	}
}

// Times of the code that the models' ticks stand for.
func TestTimes(t *testing.T) {
	call := parseFolder(t, "publish").duration(t, "callTimeout")
	writeback := parseFolder(t, "writeback")
	patch, lease, work := writeback.duration(t, "patchTime"), writeback.duration(t, "leaseTime"), writeback.duration(t, "workTime")
	for _, tt := range []struct {
		holds bool
		text  string
	}{
		{state.RenewEvery < state.LostAfter, "a lease is renewed before it counts as lost"},
		{state.LostAfter+call < state.LeaseFor, "a call begun just before a lease counts as lost ends before the lease"},
		{2*patch < lease, "a change that was given up has the time of another one to take effect before the lease ends"},
		{lease < work, "the delivery after a crash lives to see the lease's end"},
		{lostAge+1 <= expiredAge && patchAge < overAge && overAge <= leaseEnd, "the models' ticks say the same"},
	} {
		if !tt.holds {
			t.Errorf("no longer true: %s", tt.text)
		}
	}
}

// parsed is a package's code without its tests.
type parsed struct {
	files *token.FileSet
	decls []ast.Decl
}

func parseFolder(t *testing.T, folder string) parsed {
	t.Helper()
	p := parsed{files: token.NewFileSet()}
	names, err := filepath.Glob(filepath.Join("..", folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(p.files, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		p.decls = append(p.decls, file.Decls...)
	}
	return p
}

// function finds a function by its name, with its receiver's type or its package before it.
func (p parsed) function(t *testing.T, name string) (*ast.FuncDecl, *token.FileSet) {
	t.Helper()
	owner, base, _ := strings.Cut(name, ".")
	for _, decl := range p.decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Name.Name != base {
			continue
		}
		if f.Recv == nil {
			return f, p.files
		}
		if strings.TrimPrefix(text(p.files, f.Recv.List[0].Type), "*") == owner {
			return f, p.files
		}
	}
	t.Fatalf("there is no function %s: the models stand for nothing", name)
	return nil, nil
}

// duration is the value of a constant that is a number of seconds.
func (p parsed) duration(t *testing.T, name string) time.Duration {
	t.Helper()
	for _, decl := range p.decls {
		general, ok := decl.(*ast.GenDecl)
		if !ok || general.Tok != token.CONST {
			continue
		}
		for _, spec := range general.Specs {
			value, ok := spec.(*ast.ValueSpec)
			if !ok || value.Names[0].Name != name {
				continue
			}
			number, ok := strings.CutSuffix(text(p.files, value.Values[0]), " * time.Second")
			seconds, err := strconv.Atoi(number)
			if !ok || err != nil {
				t.Fatalf("%s is no number of seconds", name)
			}
			return time.Duration(seconds) * time.Second
		}
	}
	t.Fatalf("there is no constant %s", name)
	return 0
}

// like lists the parts of a function that read like one of the wanted ones, in order.
func like(f *ast.FuncDecl, files *token.FileSet, wanted []string) []string {
	var found []string
	ast.Inspect(f.Body, func(n ast.Node) bool {
		var reads string
		switch n := n.(type) {
		case *ast.IfStmt:
			reads = "if " + text(files, n.Cond)
		case *ast.CallExpr:
			reads = text(files, n.Fun) + "("
		case ast.Expr, *ast.AssignStmt, *ast.IncDecStmt:
			reads = text(files, n)
		default:
			return true
		}
		whole := reads
		if _, isCall := n.(*ast.CallExpr); isCall {
			whole = text(files, n)
		}
		switch {
		case slices.Contains(wanted, whole):
			found = append(found, whole)
		case slices.Contains(wanted, reads):
			found = append(found, reads)
		case isMethod(reads) && slices.ContainsFunc(wanted, func(w string) bool { return strings.HasPrefix(w, reads) }):
			found = append(found, whole)
		}
		return true
	})
	return found
}

// isMethod reports whether a call is of a method of the function's own receiver, whose name
// has one letter here.
func isMethod(call string) bool { return strings.Index(call, ".") == 1 && strings.HasSuffix(call, "(") }

// text is a node's source on one line.
func text(files *token.FileSet, n ast.Node) string {
	var b strings.Builder
	if err := printer.Fprint(&b, files, n); err != nil {
		return fmt.Sprint(err) // which reads like nothing
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
