package emulatortest

import "os"

// StartFirestore starts a Firestore emulator for a program that is no test, and returns
// its host:port and what stops it.
func StartFirestore() (addr string, stop func(), err error) {
	if addr := os.Getenv(firestore.hostVar); addr != "" {
		return addr, func() {}, nil
	}
	p, err := firestore.start()
	if err != nil {
		return "", nil, err
	}
	return p.addr, p.stop, nil
}

// Port is FreePort for a program that is no test.
func Port() (string, error) { return freePort() }
