// Package dtmrelay is the source of the Cloud Functions: it relays Digital
// Threat Monitoring alerts of Google Threat Intelligence into Pub/Sub, and writes
// changes of their status back.
package dtmrelay

import (
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"dtmrelay.internal/dtmrelay/internal/app"
)

// The platform imports this package and serves what it registers. Nothing is
// built here: the first request does that, and a request after one that failed
// tries again.
func init() {
	relay := app.OnFirstUse(app.Cloud)
	functions.HTTP("Ingest", relay.ServeHTTP)
	functions.HTTP("SyncStatus", relay.SyncStatus)
}
