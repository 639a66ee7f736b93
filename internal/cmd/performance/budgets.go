package main

// budget bounds a figure that a benchmark reports.
type budget struct {
	id   string // as -run takes it
	what string

	dir       string // of the benchmark's package, from the module's root
	benchmark string // without its first word, with its sub-benchmark
	time      string // how long, or how often, it runs: as -benchtime takes it

	ours  string  // the metric
	floor string  // the metric of the least that is possible, measured in the same run
	least float64 // the floor where there is no metric of it: it is counted, not measured
	unit  string

	limit   float64
	onRatio bool // the limit is on ours/floor
}

const (
	once   = "1x" // what takes long, or counts
	second = "1s" // what takes microseconds
)

// budgets are what the relay has to keep. The first word of an id is the budget; the rest
// says under which circumstances it is measured.
var budgets = []budget{
	{
		id: "quiet-requests", what: "requests of a run with nothing new: the listing and the sweep's",
		dir: "internal/e2e", benchmark: "QuietRun/empty", time: once,
		ours: "requests", least: 2, unit: "requests", limit: 2,
	},
	{
		id: "quiet-calls", what: "calls to Firestore of a run with nothing new",
		dir: "internal/e2e", benchmark: "QuietRun/empty", time: once,
		ours: "firestore-calls", unit: "calls", limit: 4,
	},
	{
		id: "quiet-calls-page", what: "… when a page of known alerts is listed again",
		dir: "internal/e2e", benchmark: "QuietRun/page", time: once,
		ours: "firestore-calls", unit: "calls", limit: 5,
	},
	{
		id: "quiet-writes", what: "documents that it writes beside the feed's and the key's counters",
		dir: "internal/e2e", benchmark: "QuietRun/page", time: once,
		ours: "other-writes", unit: "documents", limit: 0,
	},

	{
		id: "sequential-100ms", what: "time for 100 pages, one worker, against a loop that only fetches; GTI answers in 100 ms",
		dir: "internal/e2e", benchmark: "Sequential/100ms", time: once,
		ours: "s", floor: "s-floor", unit: "s", limit: 1.05, onRatio: true,
	},
	{
		id: "sequential-250ms", what: "… in 250 ms",
		dir: "internal/e2e", benchmark: "Sequential/250ms", time: once,
		ours: "s", floor: "s-floor", unit: "s", limit: 1.05, onRatio: true,
	},

	{
		id: "parallel-even-250ms", what: "time for 320 pages, 8 workers that fetch all the time being the floor; alerts come evenly, GTI answers in 250 ms",
		dir: "internal/e2e", benchmark: "Parallel/uniform/250ms", time: once,
		ours: "s", floor: "s-floor", unit: "s", limit: 1.15, onRatio: true,
	},
	{
		id: "parallel-even-600ms", what: "… in 600 ms",
		dir: "internal/e2e", benchmark: "Parallel/uniform/600ms", time: once,
		ours: "s", floor: "s-floor", unit: "s", limit: 1.15, onRatio: true,
	},
	{
		id: "parallel-burst-250ms", what: "… nine of ten alerts in a twentieth of the time, in 250 ms",
		dir: "internal/e2e", benchmark: "Parallel/90%_in_5%/250ms", time: once,
		ours: "s", floor: "s-floor", unit: "s", limit: 1.15, onRatio: true,
	},
	{
		id: "parallel-burst-600ms", what: "… in 600 ms",
		dir: "internal/e2e", benchmark: "Parallel/90%_in_5%/600ms", time: once,
		ours: "s", floor: "s-floor", unit: "s", limit: 1.15, onRatio: true,
	},
	{
		id: "parallel-backfill", what: "… a backfill of 2,000 pages, four of five alerts in two of 120 hours, in 250 ms",
		dir: "internal/e2e", benchmark: "Backfill", time: once,
		ours: "s", floor: "s-floor", unit: "s", limit: 1.15, onRatio: true,
	},
	{
		id: "parallel-even-requests", what: "requests for 320 pages, 8 workers; alerts come evenly",
		dir: "internal/e2e", benchmark: "Parallel/uniform/250ms", time: once,
		ours: "requests", floor: "pages", unit: "requests", limit: 1.05, onRatio: true,
	},
	{
		id: "parallel-burst-requests", what: "… nine of ten alerts in a twentieth of the time",
		dir: "internal/e2e", benchmark: "Parallel/90%_in_5%/250ms", time: once,
		ours: "requests", floor: "pages", unit: "requests", limit: 1.05, onRatio: true,
	},
	{
		id: "parallel-backfill-requests", what: "… that backfill of 2,000 pages",
		dir: "internal/e2e", benchmark: "Backfill", time: once,
		ours: "requests", floor: "pages", unit: "requests", limit: 1.05, onRatio: true,
	},

	{
		id: "processor", what: "processor time of the whole process for an alert of 2 KB, against a plain feed (`internal/e2e/plain`)",
		dir: "internal/e2e", benchmark: "ProcessorTime", time: once,
		ours: "cpu-µs/alert", floor: "cpu-µs/plain", unit: "µs", limit: 0.45, onRatio: true,
	},
	{
		id: "rules", what: "processor time of 100 rules for an alert of 2 KB, against `encoding/json`, which decodes it",
		dir: "internal/rules", benchmark: "Evaluate", time: second,
		ours: "cpu-µs/alert", floor: "cpu-µs/floor", unit: "µs", limit: 50,
	},
	{
		id: "redaction-2KB", what: "processor time of the default preset for an alert of 2 KB, against `json.Valid`",
		dir: "internal/redact", benchmark: "Redact/2KB", time: second,
		ours: "cpu-µs/alert", floor: "cpu-µs/floor", unit: "µs", limit: 15,
	},
	{
		id: "redaction-15KB", what: "… of 15 KB, with its document",
		dir: "internal/redact", benchmark: "Redact/15KB-document", time: second,
		ours: "cpu-µs/alert", floor: "cpu-µs/floor", unit: "µs", limit: 150,
	},

	{
		id: "memory", what: "most memory of 100,000 alerts of 2 KB, 8 workers, against a function that says hello",
		dir: "internal/e2e", benchmark: "Memory", time: once,
		ours: "MiB", floor: "MiB-hello", unit: "MiB", limit: 96,
	},
	{
		id: "memory-flat", what: "… against a tenth of the alerts",
		dir: "internal/e2e", benchmark: "Memory", time: once,
		ours: "MiB", floor: "MiB-tenth", unit: "MiB", limit: 1.1, onRatio: true,
	},
	{
		id: "start", what: "time from the process's start to its first answer, without rules, against that function",
		dir: "internal/e2e", benchmark: "ColdStart", time: once,
		ours: "ms", floor: "ms-hello", unit: "ms", limit: 1.2, onRatio: true,
	},

	{
		id: "volume", what: "requests of a day with 250,000 alerts, a run every 5 minutes; everything listed once is the floor",
		dir: "internal/drain", benchmark: "Day/alerts=250000/every=5m0s/refs=true/cold=false", time: once,
		ours: "requests", floor: "floor", unit: "requests", limit: 40_000,
	},
	{
		id: "reads-warm", what: "documents read for an alert with two changes, 100,000 alerts a day, a warm instance; one a version is the floor",
		dir: "internal/drain", benchmark: "Day/alerts=100000/every=5m0s/refs=false/cold=false", time: once,
		ours: "documents-read/alert", least: 3, unit: "documents", limit: 6,
	},
	{
		id: "reads-cold", what: "… when each run is another instance's",
		dir: "internal/drain", benchmark: "Day/alerts=100000/every=5m0s/refs=false/cold=true", time: once,
		ours: "documents-read/alert", least: 3, unit: "documents", limit: 12.5,
	},
	{
		id: "minute-requests", what: "requests of a day with 20,000 alerts, a run every minute",
		dir: "internal/drain", benchmark: "Day/alerts=20000/every=1m0s/refs=true/cold=false", time: once,
		ours: "requests", floor: "floor", unit: "requests", limit: 8000,
	},
	{
		id: "minute-half-out", what: "… after which half of the alerts are published; half of the interval is the floor",
		dir: "internal/drain", benchmark: "Day/alerts=20000/every=1m0s/refs=true/cold=false", time: once,
		ours: "s-half-are-out", floor: "s-floor", unit: "s", limit: 75,
	},

	{
		id: "inputs", what: "inputs that Terraform needs: the project",
		dir: "internal/config", benchmark: "RequiredInputs", time: once,
		ours: "inputs", least: 1, unit: "inputs", limit: 1,
	},
}
