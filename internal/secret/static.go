package secret

import "context"

// Static is a key that is given and not read: GTI_API_KEY, for local use.
type Static string

// Key returns the key.
func (s Static) Key(context.Context) (string, error) { return string(s), nil }

// Renew returns the same key, also after it was refused: there is no other.
func (s Static) Renew(context.Context, string) (string, error) { return string(s), nil }
