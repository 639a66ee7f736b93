package message

// Priority is P1 for the API's severities critical and high, P2 for medium, and P3
// for low, in lower case as the API writes them. A missing or unknown severity is
// P2: never silently low. (DTM API: it has no critical yet, so that is no value of
// a filter; Google's other products do.)
func Priority(severity string) string {
	switch severity {
	case "critical", "high":
		return "P1"
	case "low":
		return "P3"
	default:
		return "P2"
	}
}
