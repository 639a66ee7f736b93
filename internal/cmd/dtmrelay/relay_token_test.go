package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestIdentityToken: a deployed relay is called with an identity token that Google makes
// for its address, and a relay of this machine with none.
func TestIdentityToken(t *testing.T) {
	program, err := exec.LookPath("dtmrelay")
	if err != nil {
		t.Fatal(err)
	}
	token := strings.Join([]string{jwtPart(`{"alg":"none"}`), jwtPart(fmt.Sprintf(`{"exp":%d}`, time.Now().Add(time.Hour).Unix())), jwtPart("signature")}, ".")
	var audiences []string // of the tokens that were made
	google := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var claims struct {
			Audience string `json:"target_audience"`
		}
		claimed, err := base64.RawURLEncoding.DecodeString(strings.Split(r.PostFormValue("assertion")+"..", ".")[1])
		if err == nil {
			err = json.Unmarshal(claimed, &claims)
		}
		if err != nil {
			t.Errorf("asked for a token with %q: %v", r.PostForm, err)
		}
		audiences = append(audiences, claims.Audience)
		_, _ = io.WriteString(w, `{"id_token":"`+token+`"}`)
	}))
	defer google.Close()
	var authorizations []string // of the calls
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authorizations = append(authorizations, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"feed":"deployed"}`)
	})
	deployed := httptest.NewTLSServer(answer) // its certificate is for example.com
	defer deployed.Close()
	proxy := httptest.NewServer(tunnelTo(deployed.Listener.Addr().String()))
	defer proxy.Close()
	local := httptest.NewServer(answer)
	defer local.Close()

	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: deployed.Certificate().Raw})
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HTTPS_PROXY=" + proxy.URL, "SSL_CERT_FILE=" + writeFile(t, string(certificate)),
		"GOOGLE_APPLICATION_CREDENTIALS=" + writeFile(t, accountKey(t, google.URL)),
	}
	for _, address := range []string{"https://example.com/", local.URL} {
		cmd := exec.CommandContext(t.Context(), program, "status", "--url", address)
		var stderr bytes.Buffer
		cmd.Env, cmd.Stderr = env, &stderr
		if out, err := cmd.Output(); err != nil || string(out) != `{"feed":"deployed"}`+"\n" {
			t.Errorf("%s: %v: %s%s", address, err, out, &stderr)
		}
	}
	// Their handlers have ended then.
	google.Close()
	deployed.Close()
	local.Close()
	if diff := cmp.Diff([]string{"https://example.com"}, audiences); diff != "" {
		t.Errorf("tokens were made for (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"GET /status Bearer " + token, "GET /status "}, authorizations); diff != "" {
		t.Errorf("the calls (-want +got):\n%s", diff)
	}
}

func jwtPart(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// accountKey is the file with the key of an account whose tokens come from an address.
func accountKey(t *testing.T, tokens string) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "p", "client_email": "caller@p.iam.gserviceaccount.com", "client_id": "1", "private_key_id": "1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
		"token_uri":   tokens, "universe_domain": "googleapis.com",
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// tunnelTo is a proxy whose every tunnel leads to one address.
func tunnelTo(address string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		far, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", address)
		if err != nil || r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer far.Close()
		w.WriteHeader(http.StatusOK)
		near, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer near.Close()
		go func() { _, _ = io.Copy(far, buffered) }() // ends with the connection
		_, _ = io.Copy(near, far)
	})
}
