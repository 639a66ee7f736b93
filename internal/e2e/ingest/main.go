// Command ingest is the function as the cloud's build makes it: the source's
// root package, imported for what it registers, and the functions framework.
package main

import (
	"log"
	"os"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"

	_ "dtmrelay.internal/dtmrelay"
)

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	// The platform listens on all addresses; here only this machine is to reach it.
	if err := funcframework.StartHostPort("127.0.0.1", port); err != nil {
		log.Fatal(err)
	}
}
