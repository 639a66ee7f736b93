package firestore

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"dtmrelay.internal/dtmrelay/internal/emulatortest"
)

func TestMain(m *testing.M) {
	code := emulatortest.Main(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
