package deploy

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/testutil"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// The units limit the access of warren to the host: their exposure, as systemd rates it from 0 (none) to 100, stays below a
// bound. What remains is named in docs/security.md.
func TestUnits_Exposure_IsBounded(t *testing.T) {
	testutil.NeedTools(t, "systemd-analyze")
	for unit, bound := range map[string]string{"warren.service": "31", "warren-etcd.service": "21"} {
		t.Run(unit, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--no-pager",
				"--threshold="+bound, "systemd/"+unit).CombinedOutput()
			if err != nil {
				t.Errorf("%v, expected an exposure of at most %s of 100:\n%s", err, bound, out)
			}
			// It fails where /usr/local/bin/warren does not exist.
			out, _ = exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", "systemd/"+unit).CombinedOutput()
			for line := range strings.Lines(string(out)) {
				if !strings.Contains(line, "/usr/local/bin/warren is not executable") {
					t.Errorf("verify: %s", line)
				}
			}
		})
	}
}

// Every container and service has a memory limit, and a GOMEMLIMIT below it, so that the garbage collector works harder before the
// kernel ends the process.
func TestMemory_EveryProcess_HasLimitAndGOMEMLIMIT(t *testing.T) {
	check := func(name string, limit resource.Quantity, env string) {
		t.Helper()
		soft, err := resource.ParseQuantity(strings.TrimSuffix(env, "B"))
		if err != nil || limit.IsZero() || soft.Value()*10 > limit.Value()*9 || soft.Value()*10 < limit.Value()*8 {
			t.Errorf("%s: GOMEMLIMIT %q (%v) and a limit of %v, expected 80 to 90 per cent of the limit", name, env, err, limit.String())
		}
	}
	specs := podSpecs(t)
	for _, o := range ingressManifest(t) {
		if d, ok := o.(*appsv1.DaemonSet); ok {
			specs[d.Name] = d.Spec.Template.Spec
		}
	}
	for name, spec := range specs {
		for _, c := range spec.InitContainers {
			if c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s: init container %s has no memory limit", name, c.Name)
			}
		}
		for _, c := range spec.Containers {
			env := ""
			for _, e := range c.Env {
				if e.Name == "GOMEMLIMIT" {
					env = e.Value
				}
			}
			check(name+"/"+c.Name, *c.Resources.Limits.Memory(), env)
		}
	}
	for _, unit := range []string{"warren.service", "warren-etcd.service"} {
		raw := string(testutil.Value[[]byte](t)(os.ReadFile("systemd/" + unit)))
		_, max, _ := strings.Cut(raw, "\nMemoryMax=")
		_, env, _ := strings.Cut(raw, "\nEnvironment=GOMEMLIMIT=")
		max, _, _ = strings.Cut(max, "\n")
		env, _, _ = strings.Cut(env, "\n")
		limit, err := resource.ParseQuantity(max + "i") // systemd's suffixes are powers of 1024
		if err != nil {
			t.Errorf("%s: MemoryMax %q: %v", unit, max, err)
			continue
		}
		check(unit, limit, env)
	}
}
