package app

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// restrict lets only operators write, and only operators and viewers read, where
// operators are named. What is asked for doesn't matter: who may not read learns
// nothing about which paths there are.
func (a *App) restrict(next http.Handler) http.Handler {
	if len(a.cfg.Operators) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		email := caller(r)
		// Addresses in the configuration are in small letters.
		named := func(list []string) bool { return slices.Contains(list, strings.ToLower(email)) }
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		if named(a.cfg.Operators) || reads && named(a.cfg.Viewers) {
			next.ServeHTTP(w, r)
			return
		}
		p := problem{Status: http.StatusForbidden}
		switch {
		case email == "":
			p.Detail = "the request has no identity token that names a verified e-mail address, and OPERATORS says who may do this: " +
				"send one, for a service account with its address (gcloud auth print-identity-token --include-email)"
		case named(a.cfg.Viewers):
			p.Detail = fmt.Sprintf("%s is in VIEWERS, who may read, and this is for OPERATORS alone: ask who deploys the relay", email)
		default:
			p.Detail = fmt.Sprintf("%s is neither in OPERATORS nor in VIEWERS: ask who deploys the relay", email)
		}
		a.log.WarnContext(r.Context(), "a caller was refused", "event", "caller_refused", "feed", a.cfg.Feed,
			"requested_by", email, "method", r.Method, "path", dtm.Shorten(r.URL.Path))
		p.write(w)
	})
}

// caller is the e-mail address of who sends a request, empty where no token names one.
//
// The token's signature is not checked here, and can't be: Cloud Run has checked it,
// together with the caller's right to invoke the service, and hands the token on with
// SIGNATURE_REMOVED_BY_GOOGLE in its place
// (https://cloud.google.com/run/docs/troubleshooting#signature-removed). Where nobody
// stands before the function, as on a machine of one's own, a token proves nothing.
//
// Cloud Run takes the token of X-Serverless-Authorization if that header is there, and
// then lets Authorization through unchecked, with whatever the caller wrote into it
// (https://cloud.google.com/run/docs/authenticating/service-to-service). Of a header
// that is there twice nobody knows which one was checked.
func caller(r *http.Request) string {
	values := r.Header.Values("X-Serverless-Authorization")
	if len(values) == 0 {
		values = r.Header.Values("Authorization")
	}
	if len(values) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	parts := strings.Split(strings.TrimSpace(token), ".")
	if !strings.EqualFold(scheme, "Bearer") || len(parts) != 3 {
		return ""
	}
	var claims struct {
		Email    string `json:"email"`
		Verified *bool  `json:"email_verified"`
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims.Verified != nil && !*claims.Verified {
		return ""
	}
	// An address in other letters could be like an operator's in small ones. None is longer
	// than an operator's may be.
	if len(claims.Email) > config.MaxEmail || strings.ContainsFunc(claims.Email, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return ""
	}
	return claims.Email
}
