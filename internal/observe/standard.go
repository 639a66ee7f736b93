package observe

import (
	"log" //nolint:depguard // it is what is led elsewhere
	"log/slog"
	"regexp"
	"strings"
)

var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"?`)

// StandardLog makes the standard logger, to which libraries write by themselves,
// one of log's, without what it quotes: net/http quotes what a server sends after
// the end of its answer, and that may be an alert.
func StandardLog(to *slog.Logger) {
	log.SetFlags(0)
	log.SetOutput(standard{to})
}

type standard struct{ to *slog.Logger }

func (s standard) Write(p []byte) (int, error) {
	s.to.Warn("a library has something to say", "event", "library", "text", quoted.ReplaceAllString(strings.TrimSpace(string(p)), `"…"`))
	return len(p), nil
}
