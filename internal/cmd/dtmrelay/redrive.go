package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	vkit "cloud.google.com/go/pubsub/v2/apiv1"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/schollz/progressbar/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/publish"
)

type redriveCmd struct {
	outputFlags
	Subscription string        `required:"" placeholder:"NAME" help:"Subscription that has the dead letters or the rejects: projects/P/subscriptions/S."`
	Topic        string        `required:"" placeholder:"NAME" help:"Topic to publish them to: projects/P/topics/T."`
	Limit        *int          `placeholder:"N" help:"At most so many messages (all)."`
	DryRun       bool          `help:"Only count, and leave the messages where they are."`
	Wait         time.Duration `default:"10s" placeholder:"D" help:"End when nothing has come for so long, 1s to 10m (${default})."`
}

func (redriveCmd) Help() string {
	return `Publishes dead letters and rejected write-backs to their topic again, with their data and their attributes but for those that dead-lettering or rejecting added. A message is acknowledged once it is published. Repair first what they failed at, or they come back. A write-back without requested_at counts as asked for at this moment. Messages that came after the start stay, so that it ends.

What goes to the topic of the alerts reaches every subscriber of it again, with the same dedupe_key.

Examples:

	dtmrelay redrive --subscription projects/p/subscriptions/dtm-dead-letters-pull --topic projects/p/topics/dtm-status-updates --dry-run
	dtmrelay redrive --subscription projects/p/subscriptions/dtm-rejects-pull --topic projects/p/topics/dtm-status-updates --limit 100`
}

var subscriptionName = regexp.MustCompile(`^projects/([^/]+)/subscriptions/[^/]+$`)

func (c *redriveCmd) Validate() error {
	var problems []error
	if c.Subscription != "" && !subscriptionName.MatchString(c.Subscription) {
		problems = append(problems, fmt.Errorf("--subscription is %q: it must be projects/PROJECT/subscriptions/NAME", c.Subscription))
	}
	if c.Topic != "" && !topicName.MatchString(c.Topic) {
		problems = append(problems, fmt.Errorf("--topic is %q: it must be projects/PROJECT/topics/NAME", c.Topic))
	}
	if c.Limit != nil && *c.Limit < 1 {
		problems = append(problems, fmt.Errorf("--limit is %d: it must be 1 or more", *c.Limit))
	}
	if c.Wait < time.Second || c.Wait > 10*time.Minute {
		problems = append(problems, fmt.Errorf("--wait is %s: it must be 1s to 10m", c.Wait))
	}
	return errors.Join(problems...)
}

func (c *redriveCmd) Run(ctx context.Context) error {
	client, err := publish.NewClient(ctx, subscriptionName.FindStringSubmatch(c.Subscription)[1])
	if err != nil {
		return err
	}
	r := &redrive{
		redriveCmd: c, from: client.SubscriptionAdminClient, to: publish.New(client, c.Topic, c.Topic, ""),
		began: time.Now(), seen: map[string]bool{}, topics: map[string]string{}, progress: newRedriveProgress(c.Limit),
		result: redriven{DryRun: c.DryRun, ByReason: map[string]int{}},
	}
	err = r.run(ctx)
	r.progress.end()
	err = errors.Join(err, client.Close())
	if printed := r.result.print(os.Stdout, c.Format.or(os.Stdout, formatJSON)); printed != nil {
		return errors.Join(printed, err)
	}
	switch {
	case ctx.Err() != nil:
		return partialError{errors.New("interrupted; what is not acknowledged comes again")}
	case err != nil && r.result.Redriven > 0:
		return partialError{err}
	case err != nil:
		return err
	case r.result.Left > 0:
		return partialError{errors.New("some messages are left where they were")}
	}
	return nil
}

// redriven is what became of the messages.
type redriven struct {
	Redriven int            `json:"redriven"` // in a dry run: would be
	Left     int            `json:"left"`     // can't be redriven
	Newer    int            `json:"newer"`    // came after the start
	DryRun   bool           `json:"dry_run,omitempty"`
	ByReason map[string]int `json:"by_reason"` // of those redriven and left
}

// redriveColumns are the columns of CSV, with a row for each reason. From the third on they
// are of all reasons, and so the same in each row.
var redriveColumns = []string{"reason", "messages", "redriven", "left", "newer"}

// withTotals are the rows of CSV: where there is no reason, one that has none.
func (r redriven) withTotals(rows [][]string) (all [][]string) {
	if len(rows) == 0 {
		rows = [][]string{{"", "0"}}
	}
	for _, row := range rows {
		all = append(all, append(row, strconv.Itoa(r.Redriven), strconv.Itoa(r.Left), strconv.Itoa(r.Newer)))
	}
	return all
}

func (r redriven) print(w io.Writer, format outputFormat) error {
	var rows [][]string
	switch format {
	case formatCSV, formatTable:
		for _, reason := range slices.Sorted(maps.Keys(r.ByReason)) {
			rows = append(rows, []string{reason, strconv.Itoa(r.ByReason[reason])})
		}
		if format == formatCSV {
			return writeCSV(w, redriveColumns, r.withTotals(rows))
		}
		if err := printTable(w, redriveColumns[:2], rows); err != nil {
			return err
		}
		did := "redriven"
		if r.DryRun {
			did = "to be redriven"
		}
		_, err := fmt.Fprintf(w, "%d %s, %d left, %d newer\n", r.Redriven, did, r.Left, r.Newer)
		return err
	case formatJSON, formatJSONL:
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return printRawJSON(w, format, text)
}

// redrive is one run of the command.
type redrive struct {
	*redriveCmd
	from     *vkit.SubscriptionAdminClient
	to       *publish.PubSub
	began    time.Time
	seen     map[string]bool   // ids of messages
	topics   map[string]string // of the subscriptions that dead letters come from; empty: not known
	held     []string          // what is to be given back in the end, by its acknowledge id
	result   redriven
	progress *redriveProgress
}

const (
	// pulledAtOnce is how many messages are pulled, published and acknowledged together.
	pulledAtOnce = 100
	// holdTime is how long a message that stays is kept back, so that the next pull
	// brings another: Pub/Sub's longest.
	holdTime = 600 // seconds
	// endTime is what giving back has, also after Ctrl-C.
	endTime = 10 * time.Second
)

func (r *redrive) run(ctx context.Context) error {
	if err := r.check(ctx); err != nil {
		return err
	}
	defer r.giveBack(ctx)
	for r.Limit == nil || r.result.Redriven < *r.Limit {
		n := pulledAtOnce
		if r.Limit != nil {
			n = min(n, *r.Limit-r.result.Redriven)
		}
		pulled, err := r.pull(ctx, n)
		if err != nil || len(pulled) == 0 {
			return err
		}
		if err := r.send(ctx, pulled); err != nil {
			return err
		}
		r.progress.show(r.result.Redriven)
	}
	return nil
}

// check refuses to publish in a circle. Who may not look at a subscription may still
// pull from it.
func (r *redrive) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	sub, err := r.from.GetSubscription(ctx, &pubsubpb.GetSubscriptionRequest{Subscription: r.Subscription})
	switch {
	case status.Code(err) == codes.PermissionDenied:
		return nil
	case err != nil:
		return r.explain(err)
	case sub.GetTopic() == r.Topic:
		return fmt.Errorf("%s is a subscription of %s itself: what is published there would come back", r.Subscription, r.Topic)
	}
	return nil
}

func (r *redrive) explain(err error) error {
	switch status.Code(err) {
	case codes.NotFound:
		return fmt.Errorf("there is no subscription %s: %w", r.Subscription, err)
	case codes.PermissionDenied:
		return fmt.Errorf("not permitted: grant this account roles/pubsub.subscriber on %s: %w", r.Subscription, err)
	case codes.FailedPrecondition:
		return fmt.Errorf("%s can't be pulled from (a push subscription can't): %w", r.Subscription, err)
	default:
		return fmt.Errorf("asking %s: %w", r.Subscription, err)
	}
}

// pull is the next messages that were not seen before; none when nothing has come for a
// while.
func (r *redrive) pull(ctx context.Context, n int) ([]*pubsubpb.ReceivedMessage, error) {
	waiting, cancel := context.WithTimeout(ctx, r.Wait)
	defer cancel()
	for {
		answer, err := r.from.Pull(waiting, &pubsubpb.PullRequest{Subscription: r.Subscription, MaxMessages: int32(n)})
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case waiting.Err() != nil:
			return nil, nil
		case status.Code(err) == codes.DeadlineExceeded: // the server's clock may be faster
			continue
		case err != nil:
			return nil, r.explain(err)
		}
		var fresh []*pubsubpb.ReceivedMessage
		for _, m := range answer.GetReceivedMessages() {
			if !r.seen[m.GetMessage().GetMessageId()] {
				r.seen[m.GetMessage().GetMessageId()] = true
				fresh = append(fresh, m)
			}
		}
		if len(fresh) > 0 {
			return fresh, nil
		}
	}
}

// send publishes messages and acknowledges those that are published. What stays is held.
func (r *redrive) send(ctx context.Context, pulled []*pubsubpb.ReceivedMessage) error {
	var out []message.Message
	var ids, stay []string
	for _, m := range pulled {
		attributes := m.GetMessage().GetAttributes()
		switch {
		case m.GetMessage().GetPublishTime().AsTime().After(r.began):
			r.result.Newer++
			stay = append(stay, m.GetAckId())
			continue
		case !canRedrive(attributes) || !r.isItsTopic(ctx, attributes):
			r.result.Left++
			stay = append(stay, m.GetAckId())
		default:
			out = append(out, message.Message{Data: m.GetMessage().GetData(), Attributes: ownAttributes(attributes)})
			ids = append(ids, m.GetAckId())
		}
		r.result.ByReason[reasonOf(attributes)]++
	}
	if r.DryRun {
		r.result.Redriven += len(out)
		return r.hold(ctx, append(stay, ids...))
	}
	var done []string
	var failures []error
	for i, err := range r.to.Publish(ctx, out) {
		switch {
		case err == nil:
			done = append(done, ids[i])
		case errors.Is(err, message.ErrRefused):
			r.result.Left++
			stay = append(stay, ids[i])
		default:
			failures = append(failures, err)
			r.held = append(r.held, ids[i])
		}
	}
	r.result.Redriven += len(done)
	if len(done) > 0 {
		// What is published is acknowledged also after Ctrl-C, or it would be published again.
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTime)
		defer cancel()
		if err := r.from.Acknowledge(ending, &pubsubpb.AcknowledgeRequest{Subscription: r.Subscription, AckIds: done}); err != nil {
			return fmt.Errorf("%d messages are published, but not acknowledged, and so come again: %w", len(done), err)
		}
	}
	if len(failures) > 0 {
		return failures[0] // after one failure no more are sent, and each has the same
	}
	return r.hold(ctx, stay)
}

// hold keeps messages back until the end.
func (r *redrive) hold(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	r.held = append(r.held, ids...)
	err := r.from.ModifyAckDeadline(ctx, &pubsubpb.ModifyAckDeadlineRequest{Subscription: r.Subscription, AckIds: ids, AckDeadlineSeconds: holdTime})
	if err != nil {
		return r.explain(err)
	}
	return nil
}

// giveBack lets others have what is held. Without it they have it later.
func (r *redrive) giveBack(ctx context.Context) {
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	for ids := range slices.Chunk(r.held, pulledAtOnce) {
		_ = r.from.ModifyAckDeadline(ending, &pubsubpb.ModifyAckDeadlineRequest{Subscription: r.Subscription, AckIds: ids})
	}
}

const (
	// deadLetter is how the names begin of what Pub/Sub adds to a dead letter.
	deadLetter        = "CloudPubSubDeadLetter"
	deadLetterSource  = "CloudPubSubDeadLetterSourceSubscription"
	deadLetterProject = "CloudPubSubDeadLetterSourceSubscriptionProject"
	// deletedTopic is what a subscription has when its topic is gone.
	deletedTopic    = "_deleted-topic_"
	reasonAttribute = "reason"
	// rejectedWriteback is how the reason of a rejected write-back begins.
	rejectedWriteback = "writeback: "
)

// ofRejectedWriteback are the attributes that rejecting gives to a write-back, of which it
// keeps none (message.RejectWriteback).
var ofRejectedWriteback = []string{"alert_id", "feed", "message_id", "schema"}

// ownAttributes are those that a message had before it became a dead letter or was
// rejected.
func ownAttributes(attributes map[string]string) map[string]string {
	_, dead := attributes[deadLetterSource]
	rejected := !dead && strings.HasPrefix(attributes[reasonAttribute], rejectedWriteback)
	own := maps.Clone(attributes)
	maps.DeleteFunc(own, func(name, _ string) bool {
		return name == reasonAttribute || strings.HasPrefix(name, deadLetter) || rejected && slices.Contains(ofRejectedWriteback, name)
	})
	return own
}

// canRedrive reports whether a message is one that its topic can have again. What the
// relay rejects of alerts is no alert, and of a very large write-back only the head is left.
func canRedrive(attributes map[string]string) bool {
	if _, dead := attributes[deadLetterSource]; dead {
		return true
	}
	reason := attributes[reasonAttribute]
	for _, begin := range []string{"unusable: ", message.ReasonTooLarge, message.ReasonRefused, message.ReasonUnmaskable} {
		if strings.HasPrefix(reason, begin) {
			return false
		}
	}
	return !strings.HasPrefix(reason, rejectedWriteback) || attributes["truncated"] != "true"
}

// isItsTopic reports whether a dead letter comes from the topic that it is to go to: one
// topic of dead letters may have those of several. What can't be told is the caller's word.
func (r *redrive) isItsTopic(ctx context.Context, attributes map[string]string) bool {
	source, project := attributes[deadLetterSource], attributes[deadLetterProject]
	if source == "" || project == "" {
		return true
	}
	name := "projects/" + project + "/subscriptions/" + source
	topic, known := r.topics[name]
	if !known {
		sub, err := r.from.GetSubscription(ctx, &pubsubpb.GetSubscriptionRequest{Subscription: name})
		if err == nil {
			topic = sub.GetTopic()
		}
		r.topics[name] = topic
	}
	return topic == "" || topic == r.Topic || topic == deletedTopic
}

// reasonOf is what a message is counted under.
func reasonOf(attributes map[string]string) string {
	if source, dead := attributes[deadLetterSource]; dead {
		return "dead letter of " + source
	}
	if reason := attributes[reasonAttribute]; reason != "" {
		return reason
	}
	return "none"
}

// redriveProgress is a bar on a terminal, and otherwise nothing.
type redriveProgress struct{ bar *progressbar.ProgressBar }

func newRedriveProgress(limit *int) *redriveProgress {
	if !isTerminal(os.Stderr) {
		return &redriveProgress{}
	}
	most := -1 // nobody knows
	if limit != nil {
		most = *limit
	}
	return &redriveProgress{progressbar.NewOptions(most, progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetDescription("messages"),
		progressbar.OptionSetWidth(30), progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionClearOnFinish())}
}

func (p *redriveProgress) show(n int) {
	if p.bar != nil {
		_ = p.bar.Set(n) // a bar that can't be drawn is no reason to end
	}
}

func (p *redriveProgress) end() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
