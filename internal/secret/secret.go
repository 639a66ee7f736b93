// Package secret reads the GTI API key from Secret Manager, and again from time
// to time and when the API refuses it, so that a rotated key needs no new deployment.
package secret

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"sync/atomic"
	"time"

	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TTL is how long a key is used before it is read again, unless [New] is told otherwise.
const TTL = 5 * time.Minute

const (
	// retryAfter is how long a key goes on being used after a re-read has failed.
	retryAfter = time.Minute
	// patience bounds one read with its repetitions. The client library repeats
	// for as long as its context lives, which here is that of a whole run.
	patience = 10 * time.Second
)

// ErrMissing means that there is no key to read yet: no secret or no version of
// it, the version is disabled or destroyed, is empty, or holds what no key can be.
// The error that wraps it says how to add one.
var ErrMissing = errors.New("the secret has no key")

// Accessor is what Key needs of the Secret Manager client.
type Accessor interface {
	AccessSecretVersion(ctx context.Context, req *secretmanagerpb.AccessSecretVersionRequest, opts ...gax.CallOption) (*secretmanagerpb.AccessSecretVersionResponse, error)
}

// Key is an API key in Secret Manager. Its methods may be called by several goroutines.
type Key struct {
	accessor Accessor
	name     string
	ttl      time.Duration

	ended atomic.Int64 // how many reads have ended

	// locked holds a token while somebody reads or writes what is below. It is no
	// sync.Mutex, because waiting for a read has to end with the caller's context.
	locked chan struct{}
	value  string
	readAt time.Time // when to read it again
	err    error     // of the last read
}

// New returns the key in the secret version name
// (projects/…/secrets/…/versions/…), which is read at its first use and again
// after each ttl.
func New(a Accessor, name string, ttl time.Duration) *Key {
	return &Key{accessor: a, name: name, ttl: ttl, locked: make(chan struct{}, 1)}
}

// Key returns the key. When Secret Manager can't be reached for a re-read, the
// key of the last read goes on being used, and the next try is a minute later.
func (k *Key) Key(ctx context.Context) (string, error) {
	waited, err := k.lock(ctx)
	if err != nil {
		return "", err
	}
	defer k.unlock()

	if k.value != "" && time.Now().Before(k.readAt) {
		return k.value, nil
	}
	err = k.err
	if !waited {
		err = k.read(ctx)
	}
	if k.value == "" {
		return "", err
	}
	return k.value, nil
}

// Renew returns the key to use after the API has refused one: it reads again,
// unless another caller has already done so. It may return the refused key.
func (k *Key) Renew(ctx context.Context, refused string) (string, error) {
	waited, err := k.lock(ctx)
	if err != nil {
		return "", err
	}
	defer k.unlock()

	if k.value != "" && k.value != refused {
		return k.value, nil
	}
	err = k.err
	if !waited {
		err = k.read(ctx)
	}
	if err != nil {
		return "", err
	}
	return k.value, nil
}

// lock waits for the lock, and reports whether another caller's read has ended
// in the meantime: its outcome then serves this caller too.
func (k *Key) lock(ctx context.Context) (waited bool, err error) {
	ended := k.ended.Load()
	select {
	case k.locked <- struct{}{}:
		return k.ended.Load() != ended, nil
	case <-ctx.Done():
		return false, fmt.Errorf("waiting for secret %s to be read: %w", k.name, context.Cause(ctx))
	}
}

func (k *Key) unlock() { <-k.locked }

// read reads the secret. When it fails, the value read before is kept if the
// cause will pass, and forgotten if somebody took the key away.
func (k *Key) read(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	value, err := k.access(bounded)
	if err != nil && ctx.Err() != nil {
		return err // says nothing about the secret: others try for themselves
	}
	switch {
	case err == nil:
		k.value, k.readAt = value, time.Now().Add(k.ttl)
	case passing(err):
		k.readAt = time.Now().Add(retryAfter)
	default:
		k.value = ""
	}
	k.err = err
	k.ended.Add(1)
	return err
}

var errDamaged = errors.New("the secret arrived damaged (its CRC32C does not match), twice")

// access asks Secret Manager. Its errors name the secret, never the value.
func (k *Key) access(ctx context.Context) (string, error) {
	req := &secretmanagerpb.AccessSecretVersionRequest{Name: k.name}
	for range 2 {
		resp, err := k.accessor.AccessSecretVersion(ctx, req)
		if err != nil {
			return "", k.explain(err)
		}
		payload := resp.GetPayload()
		if !intact(payload) {
			continue
		}
		value := strings.TrimSpace(string(payload.GetData()))
		if value == "" {
			return "", fmt.Errorf("secret %s: %w: %s is empty: %s", k.name, ErrMissing, resp.GetName(), k.howToAdd())
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return "", fmt.Errorf("secret %s: %w: %s holds spaces, control characters or others that no key has: %s",
				k.name, ErrMissing, resp.GetName(), k.howToAdd())
		}
		return value, nil
	}
	return "", fmt.Errorf("secret %s: %w", k.name, errDamaged)
}

// intact compares the payload with its checksum, which the client library leaves
// to its caller. The checksum is optional.
func intact(p *secretmanagerpb.SecretPayload) bool {
	if p == nil || p.DataCrc32C == nil {
		return true
	}
	return int64(crc32.Checksum(p.GetData(), crc32.MakeTable(crc32.Castagnoli))) == p.GetDataCrc32C()
}

// explain says what to do about an answer of Secret Manager.
func (k *Key) explain(err error) error {
	code := status.Code(err)
	if errors.Is(err, context.DeadlineExceeded) { // the client library's own pause ended so
		code = codes.DeadlineExceeded
	}
	switch code {
	case codes.DeadlineExceeded, codes.Unavailable:
		return fmt.Errorf("reading secret %s: no answer of Secret Manager: see whether the relay reaches secretmanager.googleapis.com (its VPC connector or egress rules, DNS): %w", k.name, err)
	case codes.NotFound:
		return fmt.Errorf("secret %s: %w: it does not exist or has no version: %s: %w", k.name, ErrMissing, k.howToAdd(), err)
	case codes.FailedPrecondition:
		return fmt.Errorf("secret %s: %w: the version is disabled or destroyed: enable it, or %s: %w", k.name, ErrMissing, k.howToAdd(), err)
	case codes.PermissionDenied:
		return fmt.Errorf("secret %s: permission denied: grant roles/secretmanager.secretAccessor on this secret to the service account that runs the relay: %w", k.name, err)
	default:
		return fmt.Errorf("reading secret %s: %w", k.name, err)
	}
}

// howToAdd is the command that stores a key as the newest version. It takes the key
// from the terminal, so that it gets into no variable and no shell's history.
func (k *Key) howToAdd() string {
	project, secret, version := "PROJECT", "NAME", "latest"
	if p := strings.Split(k.name, "/"); len(p) == 6 { // projects/P/secrets/S/versions/V
		project, secret, version = p[1], p[3], p[5]
	}
	add := fmt.Sprintf(`add the key with "gcloud secrets versions add %s --project=%s --data-file=-" (paste it, Enter, Ctrl-D)`, secret, project)
	if version != "latest" {
		add += fmt.Sprintf(" (and set GTI_API_KEY_SECRET to the new version, it names version %s)", version)
	}
	return add
}

// passing reports whether a failure says nothing about the key itself.
// Unauthenticated is such a one: it is what a metadata server out of breath looks like.
func passing(err error) bool {
	if errors.Is(err, ErrMissing) {
		return false
	}
	code := status.Code(err)
	return code != codes.PermissionDenied && code != codes.InvalidArgument
}
