package version

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/warrennet/warren/internal/testutil"
)

// semver is the grammar of semver.org, version 2.0.0.
var semver = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)` +
	`(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`)

// repository is a directory with hack/version.sh and nothing else.
type repository struct {
	t   *testing.T
	dir string
}

func newRepository(t *testing.T) repository {
	r := repository{t, t.TempDir()}
	testutil.Must(t, os.Mkdir(filepath.Join(r.dir, "hack"), 0o755))
	testutil.Must(t, os.WriteFile(filepath.Join(r.dir, "hack/version.sh"), testutil.Value[[]byte](t)(os.ReadFile("../../hack/version.sh")),
		0o755))
	return r
}

func (r repository) run(args ...string) string {
	r.t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com",
		"GIT_COMMITTER_NAME=a",
		"GIT_COMMITTER_EMAIL=a@example.com", "GIT_CEILING_DIRECTORIES="+filepath.Dir(r.dir))
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (r repository) expect(t *testing.T, situation, pattern string) {
	t.Helper()
	got := regexp.MustCompile(`\n$`).ReplaceAllString(r.run("hack/version.sh"), "")
	if !semver.MatchString(got) {
		t.Errorf("%s: %q is not a semantic version", situation, got)
	}
	if !regexp.MustCompile("^" + pattern + "$").MatchString(got) {
		t.Errorf("%s: %q, expected %s", situation, got, pattern)
	}
}

func TestVersionScript_TagsAndCommits_PrintsSemanticVersion(t *testing.T) {
	r := newRepository(t)
	r.expect(t, "no repository", `0\.1\.0-dev`)
	commit := func(name string) { r.run("git", "commit", "-q", "--allow-empty", "-m", name) }
	r.run("git", "init", "-q")
	r.run("git", "add", ".")
	commit("one")
	r.expect(t, "no tag", `0\.1\.0-dev\.1\+g[0-9a-f]{7}`)
	r.run("git", "tag", "v0.2.0-rc.1")
	r.expect(t, "pre-release", `0\.2\.0-rc\.1`)
	commit("two")
	r.expect(t, "after a pre-release", `0\.2\.0-rc\.1\.dev\.1\+g[0-9a-f]{7}`)
	r.run("git", "tag", "-a", "-m", "x", "v0.2.0")
	r.expect(t, "release", `0\.2\.0`)
	commit("three")
	commit("four")
	r.expect(t, "after a release", `0\.2\.1-dev\.2\+g[0-9a-f]{7}`)
	r.run("sh", "-c", "echo >> hack/version.sh")
	r.expect(t, "changed file", `0\.2\.1-dev\.2\+g[0-9a-f]{7}\.dirty`)
}

func TestVersion_Default_IsSemantic(t *testing.T) {
	if !semver.MatchString(Version) {
		t.Errorf("%q is not a semantic version", Version)
	}
}
