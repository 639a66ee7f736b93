package firestore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/googleapis/gax-go/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// callTimeout is the most that one call with its repetitions may take. Without
// it a database that can't be reached hangs until the context ends.
const callTimeout = 20 * time.Second

// call makes one call to Firestore, and makes it again after codes that pass.
// doing names the work in errors. When the caller's context ends, the error
// is its cause; state.ErrConflict stays recognizable.
func (s *Store) call(ctx context.Context, doing string, f func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	backoff := gax.Backoff{Initial: 200 * time.Millisecond, Max: 3 * time.Second, Multiplier: 2}
	for {
		err := f(limited)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, state.ErrConflict):
			return fmt.Errorf("%s: %w", doing, err)
		case transient(status.Code(err)) && gax.Sleep(limited, backoff.Pause()) == nil:
			continue
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w (%w)", doing, context.Cause(ctx), err)
		case limited.Err() != nil:
			return fmt.Errorf("%s: no success within %s: %w", doing, callTimeout, s.explain(err))
		}
		return fmt.Errorf("%s: %w", doing, s.explain(err))
	}
}

// transient reports whether a code passes. A write that was made, and whose answer was lost,
// then meets its own condition: it shows as a conflict.
func transient(c codes.Code) bool {
	switch c {
	case codes.Unavailable, codes.ResourceExhausted, codes.Aborted, codes.DeadlineExceeded, codes.Internal:
		return true
	default:
		return false
	}
}

// explain adds what to do.
func (s *Store) explain(err error) error {
	switch status.Code(err) {
	case codes.NotFound:
		return fmt.Errorf("the Firestore database %s does not exist in project %s: create it with "+
			"gcloud firestore databases create --project=%s --database='%s' --location=LOCATION: %w",
			s.database, s.project, s.project, s.database, err)
	case codes.PermissionDenied:
		return fmt.Errorf("access to Firestore is refused: the account needs datastore.entities.create, get, list and update on database %s of project %s, as roles/datastore.user has them: %w",
			s.database, s.project, err)
	default:
		return err
	}
}
