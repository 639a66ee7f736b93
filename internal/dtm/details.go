package dtm

// Details are the fields of an alert that tell people what it is about. Routing needs
// none of them, so they are read only where they are shown. A field that is absent,
// or of another type, is empty.
type Details struct {
	Title     string
	Summary   string // alert_summary: the begin of the document's text
	AISummary string // ai_doc_summary
	// SourceURL is where the document was found. It is foreign text: not checked, and
	// possibly harmful to follow.
	SourceURL string
}

// sources are the members of a document that can say where it was found, and the
// member in them that does; the first one that is there counts (DTM API: of web
// content, pastes, documents and leaked credentials, shop listings, messages).
var sources = []struct{ member, url string }{
	{"inet_location", "url"},
	{"source_location", "url"},
	{"source_url", ""},
	{"listing_url", "url"},
	{"channel", "channel_url"},
}

// Details reads a's Raw.
func (a Alert) Details() (d Details) {
	object := trim(a.Raw)
	if len(object) == 0 || object[0] != '{' {
		return Details{}
	}
	for name, value := range members(object) {
		switch string(name) {
		case "title":
			d.Title, _ = stringValue(value)
		case "alert_summary":
			d.Summary, _ = stringValue(value)
		case "ai_doc_summary":
			d.AISummary, _ = stringValue(value)
		case "doc":
			d.SourceURL = sourceURL(value)
		}
	}
	return d
}

func sourceURL(doc []byte) string {
	for _, s := range sources {
		at := memberOf(doc, s.member)
		if s.url != "" {
			at = memberOf(at, s.url)
		}
		if at == nil {
			continue
		}
		if url, _ := stringValue(at); url != "" {
			return url
		}
	}
	return ""
}

// memberOf is the last member of a name, nil when value is no object or has none.
func memberOf(value []byte, name string) (found []byte) {
	if len(value) == 0 || value[0] != '{' {
		return nil
	}
	for n, v := range members(value) {
		if string(n) == name {
			found = v
		}
	}
	return found
}
