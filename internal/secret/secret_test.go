package secret

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"github.com/googleapis/gax-go/v2"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const name = "projects/p1/secrets/gti-key/versions/latest"

// fake answers each access with what next returns, after delay.
type fake struct {
	delay time.Duration
	calls atomic.Int64
	mu    sync.Mutex
	next  func() (*secretmanagerpb.AccessSecretVersionResponse, error)
}

func (f *fake) AccessSecretVersion(ctx context.Context, req *secretmanagerpb.AccessSecretVersionRequest, _ ...gax.CallOption) (*secretmanagerpb.AccessSecretVersionResponse, error) {
	f.calls.Add(1)
	if req.GetName() != name {
		return nil, status.Error(codes.InvalidArgument, "asked for "+req.GetName())
	}
	if f.delay > 0 {
		select {
		case <-time.After(f.delay):
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next()
}

func (f *fake) answer(version, value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = func() (*secretmanagerpb.AccessSecretVersionResponse, error) {
		return response(version, value), nil
	}
}

func (f *fake) fail(code codes.Code) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = func() (*secretmanagerpb.AccessSecretVersionResponse, error) {
		return nil, status.Error(code, "as the test wants it")
	}
}

func response(version, value string) *secretmanagerpb.AccessSecretVersionResponse {
	sum := int64(crc32.Checksum([]byte(value), crc32.MakeTable(crc32.Castagnoli)))
	return &secretmanagerpb.AccessSecretVersionResponse{
		Name:    "projects/1/secrets/gti-key/versions/" + version,
		Payload: &secretmanagerpb.SecretPayload{Data: []byte(value), DataCrc32C: &sum},
	}
}

func wantKey(t *testing.T, k *Key, want string) {
	t.Helper()
	if got, err := k.Key(t.Context()); got != want || err != nil {
		t.Errorf("Key() = %q, %v, want %q", got, err, want)
	}
}

func wantCalls(t *testing.T, f *fake, want int64) {
	t.Helper()
	if got := f.calls.Load(); got != want {
		t.Errorf("%d reads, want %d", got, want)
	}
}

func TestKeyIsReadOncePerTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		f.answer("1", " first\n")
		k := New(f, name, TTL)
		wantKey(t, k, "first")
		f.answer("2", "second")
		time.Sleep(TTL - time.Nanosecond)
		wantKey(t, k, "first")
		wantCalls(t, f, 1)
		time.Sleep(time.Nanosecond)
		wantKey(t, k, "second")
		wantCalls(t, f, 2)
	})
}

func TestKeyIsKeptWhenARereadFails(t *testing.T) {
	for _, code := range []codes.Code{
		codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Internal, codes.Unauthenticated, codes.Unknown,
	} {
		t.Run(code.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{}
				f.answer("1", "first")
				k := New(f, name, TTL)
				wantKey(t, k, "first")
				f.fail(code)
				time.Sleep(TTL)
				wantKey(t, k, "first")
				wantKey(t, k, "first")
				wantCalls(t, f, 2) // the second call didn't try again
				time.Sleep(time.Minute)
				wantKey(t, k, "first")
				wantCalls(t, f, 3)
				f.answer("2", "second")
				time.Sleep(time.Minute)
				wantKey(t, k, "second")
			})
		})
	}
}

func TestKeyIsForgottenWhenItWasTakenAway(t *testing.T) {
	for _, code := range []codes.Code{codes.NotFound, codes.FailedPrecondition, codes.PermissionDenied, codes.InvalidArgument} {
		t.Run(code.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{}
				f.answer("1", "first")
				k := New(f, name, TTL)
				wantKey(t, k, "first")
				f.fail(code)
				time.Sleep(TTL)
				if got, err := k.Key(t.Context()); err == nil {
					t.Errorf("Key() = %q after %s, want an error", got, code)
				}
				f.fail(codes.Unavailable)
				if got, err := k.Key(t.Context()); err == nil {
					t.Errorf("Key() = %q although it was taken away", got)
				}
				f.answer("2", "second")
				wantKey(t, k, "second")
			})
		})
	}
}

func TestRenew(t *testing.T) {
	f := &fake{}
	f.answer("1", "first")
	k := New(f, name, TTL)
	wantKey(t, k, "first")
	f.answer("2", "second")
	renew := func(refused, want string) {
		t.Helper()
		if got, err := k.Renew(t.Context(), refused); got != want || err != nil {
			t.Errorf("Renew(%q) = %q, %v, want %q", refused, got, err, want)
		}
	}
	renew("first", "second")
	renew("first", "second") // a slow caller whose request began with the old key
	wantCalls(t, f, 2)
	renew("second", "second") // nothing newer is there
	wantCalls(t, f, 3)
	f.fail(codes.Unavailable)
	if got, err := k.Renew(t.Context(), "second"); err == nil {
		t.Errorf("Renew() = %q without having read", got)
	}
}

func TestConcurrentCallsReadOnce(t *testing.T) {
	calls := map[string]func(*Key, context.Context) (string, error){
		"Key":   (*Key).Key,
		"Renew": func(k *Key, ctx context.Context) (string, error) { return k.Renew(ctx, "key") },
	}
	for method, call := range calls {
		for _, failing := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, failing %t", method, failing), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := &fake{delay: time.Second}
					f.answer("1", "key")
					if failing {
						f.fail(codes.Unavailable)
					}
					k := New(f, name, TTL)
					var wg sync.WaitGroup
					for range 10 {
						wg.Go(func() {
							got, err := call(k, t.Context())
							if failing != (err != nil) || !failing && got != "key" {
								t.Errorf("got %q, %v", got, err)
							}
						})
					}
					wg.Wait()
					wantCalls(t, f, 1)
				})
			})
		}
	}
}

func TestEachCallerKeepsItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{delay: 5 * time.Second}
		f.answer("1", "key")
		k := New(f, name, TTL)
		start := time.Now()
		var wg sync.WaitGroup
		// The one who reads gives up after 1 s, one who waits after 2 s; the third gets the key.
		for i, limit := range []time.Duration{time.Second, 2 * time.Second, time.Minute} {
			time.Sleep(time.Millisecond)
			synctest.Wait()
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				got, err := k.Key(ctx)
				if i == 2 {
					if got != "key" || err != nil {
						t.Errorf("the third caller got %q, %v", got, err)
					}
					return
				}
				if err == nil || time.Since(start) > limit+time.Second {
					t.Errorf("caller %d got %q, %v after %s", i, got, err, time.Since(start))
				}
			})
		}
		wg.Wait()
	})
}

func TestAReadIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{delay: time.Hour}
		f.answer("1", "key")
		start := time.Now()
		if _, err := New(f, name, TTL).Key(t.Context()); status.Code(err) != codes.DeadlineExceeded ||
			!strings.Contains(err.Error(), "see whether the relay reaches secretmanager.googleapis.com") {
			t.Errorf("error %v", err)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("gave up after %s", d)
		}
	})
}

func TestChecksum(t *testing.T) {
	damaged := response("1", "key")
	*damaged.Payload.DataCrc32C++
	without := response("1", "key")
	without.Payload.DataCrc32C = nil
	tests := []struct {
		name    string
		answers []*secretmanagerpb.AccessSecretVersionResponse
		ok      bool
	}{
		{"right", []*secretmanagerpb.AccessSecretVersionResponse{response("1", "key")}, true},
		{"absent", []*secretmanagerpb.AccessSecretVersionResponse{without}, true},
		{"wrong, then right", []*secretmanagerpb.AccessSecretVersionResponse{damaged, response("1", "key")}, true},
		{"wrong twice", []*secretmanagerpb.AccessSecretVersionResponse{damaged, damaged, response("1", "key")}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &fake{}
			n := 0
			f.next = func() (*secretmanagerpb.AccessSecretVersionResponse, error) {
				n++
				return tt.answers[n-1], nil
			}
			got, err := New(f, name, TTL).Key(t.Context())
			if tt.ok != (err == nil) || tt.ok && got != "key" {
				t.Errorf("Key() = %q, %v", got, err)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	const command = `add the key with "gcloud secrets versions add gti-key --project=p1 --data-file=-" (paste it, Enter, Ctrl-D)`
	tests := []struct {
		name    string
		next    func() (*secretmanagerpb.AccessSecretVersionResponse, error)
		missing bool
		want    []string
	}{
		{"no version", failWith(codes.NotFound), true, []string{command}},
		{"disabled", failWith(codes.FailedPrecondition), true, []string{"disabled", command}},
		{"empty", answerWith(" \n"), true, []string{"empty", command}},
		{"no payload", func() (*secretmanagerpb.AccessSecretVersionResponse, error) {
			return &secretmanagerpb.AccessSecretVersionResponse{}, nil
		}, true, []string{command}},
		{"two lines", answerWith("Sensitive1\nSensitive2"), true, []string{"versions/1", "spaces"}},
		{"space", answerWith("Sensitive1 Sensitive2"), true, []string{"spaces"}},
		{"control character", answerWith("Sensitive1\x00"), true, []string{"control"}},
		{"byte order mark", answerWith("\ufeffSensitive1"), true, []string{"control"}},
		{"not UTF-8", answerWith("Sensitive1\xff\xfe"), true, []string{"control"}},
		{"no permission", failWith(codes.PermissionDenied), false, []string{"roles/secretmanager.secretAccessor"}},
		{"out of reach", failWith(codes.Unavailable), false, []string{"as the test wants it"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := New(&fake{next: tt.next}, name, TTL).Key(t.Context())
			if err == nil || got != "" {
				t.Fatalf("Key() = %q, %v, want an error", got, err)
			}
			if errors.Is(err, ErrMissing) != tt.missing {
				t.Errorf("errors.Is(%v, ErrMissing) = %t", err, !tt.missing)
			}
			for _, want := range append(tt.want, name) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error does not say %q: %v", want, err)
				}
			}
			if strings.Contains(err.Error(), "Sensitive") {
				t.Errorf("the error holds the value: %v", err)
			}
		})
	}
}

func failWith(code codes.Code) func() (*secretmanagerpb.AccessSecretVersionResponse, error) {
	return func() (*secretmanagerpb.AccessSecretVersionResponse, error) {
		return nil, status.Error(code, "as the test wants it")
	}
}

func answerWith(value string) func() (*secretmanagerpb.AccessSecretVersionResponse, error) {
	return func() (*secretmanagerpb.AccessSecretVersionResponse, error) { return response("1", value), nil }
}

func TestStaticStaysTheSame(t *testing.T) {
	s := Static("key")
	before, _ := s.Key(t.Context())
	after, err := s.Renew(t.Context(), before)
	if before != "key" || after != "key" || err != nil {
		t.Errorf("got %q, then %q, %v", before, after, err)
	}
}

const exhausted = "projects/p1/secrets/exhausted/versions/latest"

// server is Secret Manager over gRPC: it is unavailable for the first calls, and the quota
// is used up for those for exhausted.
type server struct {
	secretmanagerpb.UnimplementedSecretManagerServiceServer
	unavailable int64
	calls       atomic.Int64
}

func (s *server) AccessSecretVersion(_ context.Context, req *secretmanagerpb.AccessSecretVersionRequest) (*secretmanagerpb.AccessSecretVersionResponse, error) {
	if s.calls.Add(1) <= s.unavailable {
		return nil, status.Error(codes.Unavailable, "starting")
	}
	if req.GetName() == exhausted {
		return nil, status.Error(codes.ResourceExhausted, "Quota exceeded")
	}
	if req.GetName() != name {
		return nil, status.Error(codes.NotFound, "Secret not found or has no versions.")
	}
	return response("7", "key\n"), nil
}

func TestClientTalksToAnEmulator(t *testing.T) {
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fake := &server{unavailable: 2}
	s := grpc.NewServer()
	secretmanagerpb.RegisterSecretManagerServiceServer(s, fake)
	go func() { _ = s.Serve(lis) }()
	defer s.Stop()

	for _, prefix := range []string{"", "http://"} {
		t.Setenv(EmulatorHost, prefix+lis.Addr().String())
		c, err := NewClient(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		wantKey(t, New(c, name, TTL), "key")
		if _, err := New(c, "projects/p1/secrets/other/versions/latest", TTL).Key(t.Context()); !errors.Is(err, ErrMissing) {
			t.Errorf("reading a secret that isn't there: %v", err)
		}
		// A quota that is used up doesn't pass within the call.
		if got, err := New(c, exhausted, TTL).Key(t.Context()); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("reading beyond the quota: %q, %v", got, err)
		}
	}
	if got := fake.calls.Load(); got != 2+2*3 {
		t.Errorf("%d calls, want 2 unavailable ones and 6 others", got)
	}
}
