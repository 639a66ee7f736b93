package main

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestACutRecordIsLeftOut: after a full disk or a crash of the machine a file of alerts ends
// anywhere. Of a file of somebody else's nothing is cut off.
func TestACutRecordIsLeftOut(t *testing.T) {
	const (
		head = "event,id,title\r\n"
		one  = "created,a,\"says \"\"hi\"\",\r\nand more\"\r\n"
		two  = "status_changed,b,plain\r\n"
	)
	for name, test := range map[string]struct {
		format       outputFormat
		before, want string
	}{
		"whole":                {formatCSV, head + one + two, head + one + two},
		"a word":               {formatCSV, head + one + "status_cha", head + one},
		"in quotes":            {formatCSV, head + two + "created,a,\"says", head + two},
		"after a line break":   {formatCSV, head + two + "created,a,\"says \"\"hi\"\",\r\n", head + two},
		"after a quote":        {formatCSV, head + "updated,a,\"says\"", head},
		"half of a line's end": {formatCSV, head + two + "created,c,x\r", head + two},
		"in the head":          {formatCSV, "event,i", ""},
		"nothing":              {formatCSV, "", ""},
		"of somebody else":     {formatCSV, "name,size\r\nfoo,1", "name,size\r\nfoo,1\r\n"},
		"an odd quote":         {formatCSV, "5\" disks\r\nof somebody", "5\" disks\r\nof somebody\r\n"},
		"a cut line":           {formatJSONL, "{\"id\":1}\n{\"id\"", "{\"id\":1}\n"},
		"a whole one":          {formatJSONL, "{\"id\":1}", "{\"id\":1}\n"},
		"of text":              {formatJSONL, "text", "text\n"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "alerts")
			if err := os.WriteFile(path, []byte(test.before), 0o600); err != nil {
				t.Fatal(err)
			}
			file, err := openToAppend(path, test.format)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteString("next"); err != nil {
				t.Fatal(err)
			}
			if err := file.Close(); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != test.want+"next" {
				t.Errorf("%q, %v; want %q", got, err, test.want+"next")
			}
		})
	}
}

// TestAFileIsAddedToByOneAtATime: who comes second changes nothing in the file, and may
// have it after the first.
func TestAFileIsAddedToByOneAtATime(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("there are no locks here")
	}
	for _, format := range []outputFormat{formatJSONL, formatCSV} {
		path := filepath.Join(t.TempDir(), "alerts")
		first, err := openToAppend(path, format)
		if err != nil {
			t.Fatal(err)
		}
		const begun = `{"id":"beg`
		if _, err := first.WriteString(begun); err != nil {
			t.Fatal(err)
		}
		if _, err := openToAppend(path, format); err == nil || !strings.Contains(err.Error(), path+" is in use by another process") {
			t.Errorf("%s: the second gets %v", format, err)
		}
		if _, err := openToReplace(path); err == nil || !strings.Contains(err.Error(), path+" is in use by another process") {
			t.Errorf("%s: who replaces it gets %v", format, err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != begun {
			t.Errorf("%s: the file has %q, %v; want %q", format, got, err, begun)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		second, err := openToAppend(path, format)
		if err != nil {
			t.Fatal(err)
		}
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestAFileIsReplacedByOneAtATime: who comes second leaves it as it is. A device takes what
// it is sent, and loses nothing.
func TestAFileIsReplacedByOneAtATime(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("there are no locks here")
	}
	path := filepath.Join(t.TempDir(), "alerts")
	if err := os.WriteFile(path, []byte("of before"), 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := openToReplace(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.WriteString("now"); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() (*os.File, error){
		"fetch": func() (*os.File, error) { return openToReplace(path) },
		"poll":  func() (*os.File, error) { return openToAppend(path, formatJSONL) },
	} {
		if _, err := open(); err == nil || !strings.Contains(err.Error(), path+" is in use by another process") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "now" {
		t.Errorf("the file has %q, %v", got, err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	device, err := openToReplace(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if err := device.Close(); err != nil {
		t.Error(err)
	}
}

// TestAFileThatWasMovedAway: the next poll writes to a new one of that name, with its head,
// also where who moved it has made that already.
func TestAFileThatWasMovedAway(t *testing.T) {
	for _, made := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "alerts.csv")
		file, err := openToAppend(path, formatCSV)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := file.Stat(); err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != 0o600 {
			t.Errorf("others may read the file: %v", info.Mode())
		}
		out := &alertPrinter{path: path, format: formatCSV, counts: map[class]int{}}
		if err := out.writeTo(file); err != nil {
			t.Fatal(err)
		}
		poll := func() {
			t.Helper()
			alert := []byte(`{"id":"a"}`)
			for _, err := range []error{out.begin(), out.alert(alert, alert, map[string]string{"event": "created"}), out.printRows(), out.end()} {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		poll()
		poll()
		twice, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		if made {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		poll()
		poll()
		if err := os.Remove(path + ".1"); err != nil {
			t.Fatal(err)
		}
		if again, err := os.ReadFile(path); err != nil || !bytes.Equal(again, twice) {
			t.Errorf("made anew: %t: %q, %v; want %q", made, again, err, twice)
		}
		if err := out.close(); err != nil {
			t.Error(err)
		}
	}
}
