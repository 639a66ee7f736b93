package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// TestUpload: what .gcloudignore leaves of the source, built as the cloud builds
// it, is the function.
func TestUpload(t *testing.T) {
	t.Parallel()
	onlyLong(t, "it builds everything once more")
	built := filepath.Join(t.TempDir(), "function")
	if out, err := exec.Command("../../.ci/upload", built).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w := newWorld(t, dtmsim.Options{}, recent(61, 10))
	w.binary = built
	p := w.start()
	w.finish(p)
	if status, text := p.do(http.MethodGet, "/status", ""); status != http.StatusOK {
		t.Errorf("GET /status: %d %s", status, text)
	}
	if status, text := w.startSync().push("m", `{"alert_id":"a"}`); status != http.StatusOK {
		t.Errorf("SyncStatus: %d %s", status, text)
	}
}

// TestUploadIsAnAllowList: what nobody named is not uploaded, wherever it lies, and
// Terraform stops where it lies at the top. gcloud uploads the same files.
func TestUploadIsAnAllowList(t *testing.T) {
	t.Parallel()
	source := []string{"function.go", "go.mod", "go.sum", "internal/a/a.go", "internal/a/b/b_test.go", "internal/a/page.tmpl"}
	known := []string{
		".env", ".git/config", ".github/workflows/ci.yml", "README.md", "docs/page.md", "dtmrelay", "dtmrelay-data/alerts.jsonl", "cpu.prof",
		"internal/a/.env", "internal/a/key.json", "internal/a/testdata/alert.json", "internal/terraform.tfvars",
		"terraform/main.tf", "terraform/terraform.tfvars", "terraform/.terraform/x.zip",
	}
	stray := []string{"key.json", "helper.go", "backup/main.go", "backup/key.pem"}
	for name, c := range map[string]struct{ stray, unknown, odd []string }{
		"nothing stray":       {},
		"stray at the top":    {stray: stray, unknown: []string{"backup", "helper.go", "key.json"}},
		"a name as a pattern": {stray: []string{"internal/a/[b]*.json"}, odd: []string{"internal/a/[b]*.json"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			terraform, err := exec.LookPath("terraform")
			if err != nil {
				t.Skip("terraform: not available")
			}
			files := slices.Concat(source, known, c.stray)
			// The provider's resources are in other files: the lists need none.
			console := exec.Command(terraform, "-chdir="+filepath.Join(checkout(t, files), "terraform"), "console")
			console.Stdin = strings.NewReader(`jsonencode([keys(local.shipped), sort(local.unknown), local.odd_names, local.not_shipped])`)
			out, err := console.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var quoted string
			var lists [4][]string
			if err := json.Unmarshal(out, &quoted); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if err := json.Unmarshal([]byte(quoted), &lists); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if diff := cmp.Diff([][]string{source, c.unknown, c.odd}, lists[:3], cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("uploaded, unknown, and of a name that can't be left out, wanted (-) and got (+):\n%s", diff)
			}
			// archive_file takes all but what is named, or is below a folder that is named.
			for _, file := range files {
				out := slices.ContainsFunc(lists[3], func(name string) bool { return file == name || strings.HasPrefix(file, name+"/") })
				if out == slices.Contains(source, file) {
					t.Errorf("%s: left out: %t", file, out)
				}
			}
		})
	}
	t.Run("by gcloud", func(t *testing.T) {
		t.Parallel()
		gcloud, err := exec.LookPath("gcloud")
		if err != nil {
			t.Skip("gcloud: not available")
		}
		out, err := exec.Command(gcloud, "meta", "list-files-for-upload", checkout(t, slices.Concat(source, known, stray))).Output()
		if err != nil {
			t.Fatal(err)
		}
		listed := strings.Fields(string(out))
		slices.Sort(listed)
		if diff := cmp.Diff(source, listed); diff != "" {
			t.Errorf("wanted (-) and got (+):\n%s", diff)
		}
	})
}

// checkout makes a folder with these files, all empty, and with what says which of
// them are uploaded.
func checkout(t *testing.T, files []string) string {
	t.Helper()
	dir := t.TempDir()
	contents := map[string][]byte{}
	for _, file := range files {
		contents[file] = nil
	}
	for _, file := range []string{".gcloudignore", "terraform/upload.tf"} {
		content, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		contents[file] = content
	}
	for file, content := range contents {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
