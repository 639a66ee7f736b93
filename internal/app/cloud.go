package app

import (
	"context"
	"fmt"
	"os"

	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/observe"
	"dtmrelay.internal/dtmrelay/internal/publish"
	"dtmrelay.internal/dtmrelay/internal/secret"
	"dtmrelay.internal/dtmrelay/internal/state/firestore"
)

// Cloud builds the app as it is deployed: configured by the environment, with
// Firestore, Pub/Sub and Secret Manager, or with the emulators that the usual
// variables name.
func Cloud(ctx context.Context) (built *App, err error) {
	cfg, warnings, err := config.Load(ctx, nil)
	if err != nil {
		return nil, &ConfigError{err}
	}
	if len(cfg.Operators) > 0 && !cfg.Deployed {
		warnings = append(warnings, "OPERATORS: K_SERVICE is not set, so this is not Cloud Run, and nobody has checked the tokens that say who sends a request")
	}
	// The next request builds anew, and what a failed build leaves open would add up.
	var opened []func() error
	defer func() {
		if err != nil {
			for _, end := range opened {
				_ = end()
			}
		}
	}()
	keys, end, err := Keys(ctx, cfg)
	if err != nil {
		return nil, err
	}
	opened = append(opened, end)
	store, err := firestore.New(ctx, cfg.Project, cfg.Database)
	if err != nil {
		return nil, err
	}
	opened = append(opened, store.Close)
	client, err := publish.NewClient(ctx, cfg.Project)
	if err != nil {
		return nil, err
	}
	opened = append(opened, client.Close)
	topics := publish.New(client, cfg.Topic, cfg.RejectsTopic, cfg.StatusTopic)
	return Build(ctx, cfg, warnings, Parts{Store: store, Publisher: topics, Writebacks: topics, Keys: keys})
}

// Build makes the app's log, warns in it, and puts the app together.
func Build(ctx context.Context, cfg config.Config, warnings []string, parts Parts) (*App, error) {
	mask := observe.NewKeyMask(os.Stderr)
	log := observe.NewLogger(mask, cfg.LogLevel, cfg.Project)
	observe.StandardLog(log)
	for _, w := range warnings {
		log.WarnContext(ctx, "the configuration is unusual", "event", "config", "problem", w)
	}
	parts.Keys = MaskKeys(parts.Keys, mask)
	return New(cfg, parts, log)
}

// Keys is where the configuration says that the API key is. end gives back what
// it holds.
func Keys(ctx context.Context, cfg config.Config) (keys dtm.KeySource, end func() error, err error) {
	if cfg.Key != "" {
		return secret.Static(cfg.Key), func() error { return nil }, nil
	}
	client, err := secret.NewClient(ctx)
	if err != nil {
		return nil, nil, err
	}
	return secret.New(client, cfg.KeySecret, secret.TTL), client.Close, nil
}

// MaskKeys tells a mask every key that is used.
func MaskKeys(keys dtm.KeySource, mask *observe.KeyMask) dtm.KeySource { return maskedKeys{keys, mask} }

type maskedKeys struct {
	dtm.KeySource
	mask *observe.KeyMask
}

func (k maskedKeys) Key(ctx context.Context) (string, error) {
	key, err := k.KeySource.Key(ctx)
	k.mask.Add(key)
	return key, err
}

func (k maskedKeys) Renew(ctx context.Context, refused string) (string, error) {
	key, err := k.KeySource.Renew(ctx, refused)
	k.mask.Add(key)
	return key, err
}

// ConfigError is every problem of the configuration, joined.
type ConfigError struct{ err error }

func (c *ConfigError) Error() string {
	return fmt.Sprintf("the configuration has problems:\n%v", c.err)
}

// Problems lists them, one text each.
func (c *ConfigError) Problems() []string {
	var out []string
	for _, err := range dtm.Problems(c.err) {
		out = append(out, err.Error())
	}
	return out
}
