package secret

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	secretmanager "cloud.google.com/go/secretmanager/apiv1"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
)

// EmulatorHost names the variable with the host:port of an emulator of Secret
// Manager. The client library knows none of its own.
const EmulatorHost = "SECRETMANAGER_EMULATOR_HOST"

// NewClient returns a client of Secret Manager, or of its emulator.
func NewClient(ctx context.Context) (*secretmanager.Client, error) {
	var opts []option.ClientOption
	if host := os.Getenv(EmulatorHost); host != "" {
		opts = append(opts,
			option.WithEndpoint(strings.TrimPrefix(host, "http://")),
			option.WithoutAuthentication(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	}
	c, err := secretmanager.NewClient(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("creating the Secret Manager client: %w", err)
	}
	// The library's own settings begin with a pause of 2 seconds, and also repeat
	// when the quota is used up, which doesn't pass that soon.
	c.CallOptions.AccessSecretVersion = []gax.CallOption{
		gax.WithRetry(func() gax.Retryer {
			return gax.OnCodes([]codes.Code{codes.Unavailable},
				gax.Backoff{Initial: 100 * time.Millisecond, Max: 2 * time.Second, Multiplier: 2})
		}),
	}
	return c, nil
}
