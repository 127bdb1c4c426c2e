package deploy

import (
	"debug/buildinfo"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/warrennet/warren/internal/testutil"
)

// The bill of materials of each program lists the modules that are in it, with their versions.
func TestSBOM_Programs_ListTheirModules(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"make", "-C", "..", "-s", "build", "OUT=" + dir}, {"../hack/sbom.sh", dir}} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	for _, program := range []string{"warren", "warren-cni"} {
		t.Run(program, func(t *testing.T) {
			var sbom struct {
				Format     string `json:"bomFormat"`
				Components []struct{ Name, Version string }
			}
			testutil.Must(t, json.Unmarshal(testutil.Value[[]byte](t)(os.ReadFile(filepath.Join(dir, program+".cdx.json"))), &sbom))
			listed := map[string]string{}
			for _, c := range sbom.Components {
				listed[c.Name] = c.Version
			}
			info := testutil.Value[*buildinfo.BuildInfo](t)(buildinfo.ReadFile(filepath.Join(dir, program)))
			if sbom.Format != "CycloneDX" || len(info.Deps) == 0 {
				t.Fatalf("format %q, %d modules in the program", sbom.Format, len(info.Deps))
			}
			for _, m := range info.Deps {
				if listed[m.Path] != m.Version {
					t.Errorf("%s %s is listed as %q", m.Path, m.Version, listed[m.Path])
				}
			}
		})
	}
}
