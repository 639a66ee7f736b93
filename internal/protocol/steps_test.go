package protocol

import "fmt"

// actor is who takes a step: a run, or an instance of SyncStatus.
type actor uint8

const (
	nobody actor = 0
	world  actor = 0 // beside the processes
)

func (a actor) String() string {
	if a == world {
		return "–"
	}
	return fmt.Sprintf("no. %d", uint8(a))
}

// other is the other one of two processes.
func (a actor) other() actor {
	if a == nobody {
		return nobody
	}
	return 3 - a
}

// step is one thing that happens at once.
type step uint8

// Steps of the world.
const (
	tick step = iota
	change
	freeze
	wake
	crash
	loseAnswer
	quietRun

	// Of a run.
	acquire
	sendFeed
	writeFeed
	writeFeedLate
	conflictFeed
	release
	listPage
	listChanges
	lookUp
	checkBeforePublish
	publish
	checkBeforeRecord
	record
	conflictRecord
	reread

	// Of a delivery.
	deliver
	outOfTime
	awaitLeaseEnd
	get
	begin
	conflictBegin
	update
	unsent
	patchLands
	patchLate
	dropPatch
	giveUp
	completeChanged
	completeUnchanged
	withdraw
	withdrawBegun
	reject
	ack

	stepCount
)

// steps says what each step is in the code: a function, named as in sources, and a
// moment of it where it has several. What happens beside the code has no function.
var steps = [stepCount]struct{ function, moment string }{
	tick:       {"", "time passes"},
	change:     {"", "an alert changes in GTI"},
	freeze:     {"", "the process freezes"},
	wake:       {"", "the process goes on"},
	crash:      {"", "the process dies"},
	loseAnswer: {"", "an answer is lost"},
	quietRun:   {"", "all end"},

	acquire:            {"state.Acquire", "sends"},
	sendFeed:           {"Holder.write", "sends"},
	writeFeed:          {"Holder.write", "is stored"},
	writeFeedLate:      {"Holder.write", "is stored after it was given up"},
	conflictFeed:       {"Holder.write", "finds another revision"},
	release:            {"Holder.Release", "sends"},
	listPage:           {"reader.fetch", "lists a page"},
	listChanges:        {"sweepReader.pass", "lists the changes"},
	lookUp:             {"Processor.lookUp", ""},
	checkBeforePublish: {"Holder.CheckLease", "before publishing"},
	publish:            {"Processor.publish", "a message is taken"},
	checkBeforeRecord:  {"Holder.CheckLease", "before recording"},
	record:             {"Processor.write", "a record is written"},
	conflictRecord:     {"Processor.write", "finds another revision"},
	reread:             {"Processor.reread", ""},

	deliver:           {"Writer.Handle", "a delivery comes"},
	outOfTime:         {"delivery.awaitLeaseEnd", "runs out of time"},
	awaitLeaseEnd:     {"delivery.awaitLeaseEnd", "reads the record"},
	get:               {"delivery.get", ""},
	begin:             {"delivery.begin", "is written"},
	conflictBegin:     {"delivery.record", "finds another revision"},
	update:            {"delivery.update", "sends"},
	unsent:            {"delivery.update", "is too late to send"},
	patchLands:        {"delivery.update", "takes effect"},
	patchLate:         {"delivery.update", "takes effect after it was given up"},
	dropPatch:         {"delivery.update", "never takes effect"},
	giveUp:            {"delivery.giveUp", ""},
	completeChanged:   {"delivery.completeChanged", ""},
	completeUnchanged: {"delivery.completeUnchanged", ""},
	withdraw:          {"delivery.withdraw", ""},
	withdrawBegun:     {"delivery.withdrawBegun", ""},
	reject:            {"Writer.Handle", "rejects"},
	ack:               {"Writer.Handle", "is answered"},
}

func (s step) String() string {
	d := steps[s]
	switch {
	case d.function == "":
		return d.moment
	case d.moment == "":
		return d.function
	}
	return d.function + ": " + d.moment
}
