package arch

import (
	"slices"
	"testing"
)

// A plan is a pure function of its input: the package has no clock, context, logger, file or socket. time is there for durations
// in the types that a plan consists of.
func TestImports_Plan_IsPure(t *testing.T) {
	impure := []string{"context", "log", "log/slog", "math/rand", "math/rand/v2", "net", "os", "os/exec", "sync", "sync/atomic",
		"golang.org/x/sys/unix", "github.com/vishvananda/netlink"}
	for _, p := range packages(t) {
		if p.ImportPath != module+"agent/plan" {
			continue
		}
		for _, imp := range p.Imports {
			if slices.Contains(impure, imp) {
				t.Errorf("agent/plan imports %s", imp)
			}
		}
		return
	}
	t.Error("there is no package agent/plan")
}
