package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"

	"github.com/sethvargo/go-envconfig"

	"dtmrelay.internal/dtmrelay/internal/app"
	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// keyFlags are of a command that asks GTI. There is no flag with the key itself: every
// user of the machine could read it in the list of processes.
type keyFlags struct {
	KeyFile   string     `placeholder:"FILE" help:"File that holds the API key; else GTI_API_KEY is the key."`
	KeySecret secretName `placeholder:"NAME" help:"Secret of Secret Manager that holds the API key: projects/PROJECT/secrets/NAME."`
}

// secretName is a flag's value.
type secretName string

var secretNames = regexp.MustCompile(`^projects/[^/]+/secrets/[^/]+(/versions/[^/]+)?$`)

// UnmarshalText reads the name of a secret. Its error doesn't show it: it may be a key.
func (n *secretName) UnmarshalText(text []byte) error {
	if *n = secretName(text); !secretNames.Match(text) {
		return errors.New("the value (not shown, it may be a key) is not allowed: it must be projects/PROJECT/secrets/NAME, with /versions/latest or /versions/NUMBER after it if one likes")
	}
	return nil
}

var errNoKey = errors.New("there is no API key: set GTI_API_KEY to it, or name the file that holds it with --key-file FILE, " +
	"or the secret with --key-secret projects/PROJECT/secrets/NAME")

// checkKeys refuses two keys.
func (k keyFlags) checkKeys() error {
	if k.KeyFile != "" && k.KeySecret != "" {
		return usagef("--key-file and --key-secret both name an API key: leave one out")
	}
	return nil
}

// environment is the process's environment, in which the flags about the key and the
// given values replace variables. It is an error when it has no key.
func (k keyFlags) environment(values map[string]string) (envconfig.Lookuper, error) {
	over := map[string]string{}
	if err := k.checkKeys(); err != nil {
		return nil, err
	}
	switch {
	case k.KeyFile != "":
		if _, err := os.Stat(k.KeyFile); err != nil && !strings.ContainsAny(k.KeyFile, `/\.`) {
			return nil, errors.New("the file given with --key-file (not shown, it may be a key) does not exist: it must be the name of a file that holds the API key")
		}
		key, err := readShort(k.KeyFile, "the API key")
		if err != nil {
			return nil, fmt.Errorf("reading the API key: %w", err)
		}
		key = bytes.TrimSpace(key)
		if len(key) == 0 || bytes.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, fmt.Errorf("--key-file: what %s holds (not shown) is not allowed: it must be the API key, which is printable ASCII without spaces", k.KeyFile)
		}
		over["GTI_API_KEY"], over["GTI_API_KEY_SECRET"] = string(key), ""
	case k.KeySecret != "":
		over["GTI_API_KEY"], over["GTI_API_KEY_SECRET"] = "", string(k.KeySecret)
	case variable("GTI_API_KEY") == "" && variable("GTI_API_KEY_SECRET") == "":
		return nil, errNoKey
	}
	for name, value := range values {
		over[name] = value
	}
	return envconfig.LookuperFunc(func(name string) (string, bool) {
		if value, ok := over[name]; ok {
			return value, true
		}
		return os.LookupEnv(name)
	}), nil
}

// variable is a variable as the configuration reads it: one of white space is not set.
func variable(name string) string { return strings.TrimSpace(os.Getenv(name)) }

// local is the configuration of a relay on this machine, see [keyFlags.environment], and
// where its key is. end gives back what that holds.
func (k keyFlags) local(ctx context.Context, values map[string]string) (cfg config.Config, keys dtm.KeySource, end func() error, err error) {
	env, err := k.environment(values)
	if err != nil {
		return config.Config{}, nil, nil, err
	}
	cfg, warnings, err := config.LoadLocal(ctx, env)
	if err != nil {
		return config.Config{}, nil, nil, fmt.Errorf("the configuration has problems:\n%w", err)
	}
	for _, w := range warnings {
		fmt.Fprintln(os.Stderr, "dtmrelay: "+w)
	}
	keys, end, err = app.Keys(ctx, cfg)
	return cfg, keys, end, err
}

// budgeted is local for a command that asks GTI and ends: with a context that ends with
// RUN_BUDGET, or after an hour, so that nobody waits for longer because GTI asks for it.
func (k keyFlags) budgeted(ctx context.Context, values map[string]string) (within context.Context, cfg config.Config, keys dtm.KeySource, end func() error, err error) {
	if variable("RUN_BUDGET") == "" {
		values["RUN_BUDGET"] = "1h"
	}
	cfg, keys, closeKeys, err := k.local(ctx, values)
	if err != nil {
		return nil, cfg, nil, nil, err
	}
	within, cancel := context.WithTimeoutCause(ctx, cfg.Budget, fmt.Errorf("it took longer than RUN_BUDGET (%s)", cfg.Budget))
	return within, cfg, keys, func() error {
		cancel()
		return closeKeys()
	}, nil
}

// readShort reads a file that must hold what is short: it may be an endless one.
func readShort(path, what string) ([]byte, error) {
	const most = 64 << 10
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, most+1))
	if len(text) > most {
		err = fmt.Errorf("%s has more than %d bytes: it must hold %s alone", path, most, what)
	}
	return text, errors.Join(err, file.Close())
}

// checkKey is what to do about a key that GTI does not accept.
const checkKey = "check GTI_API_KEY, or what --key-file or --key-secret names"

// checkNetwork is what to do when GTI does not answer.
const checkNetwork = "GTI can't be reached: check the network, its proxy (HTTPS_PROXY) and GTI_BASE_URL"

// explain says of an error of GTI what to do about it, in one line.
func explain(err error) error {
	var key *dtm.KeyError
	switch kind := dtm.Kind(err); {
	case kind == dtm.KeyRefused && errors.As(err, &key) && key.Status == http.StatusUnauthorized:
		return fmt.Errorf("GTI does not accept the API key: %s: %w", checkKey, key.API)
	case kind == dtm.NoAnswer:
		return fmt.Errorf(checkNetwork+": %w", err)
	case kind == dtm.BudgetSpent:
		return fmt.Errorf("%w (MAX_REQUESTS_PER_DAY and MAX_ERRORS_PER_HOUR set it)", err)
	}
	return err
}
