package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/hostnet"
)

// Uninstall removes what warren left on the node and returns the names of what it removed. It succeeds on what is
// already gone. A running agent is refused: it would put everything back.
func Uninstall(cfg Config, purge bool, log *slog.Logger) (done []string, err error) {
	l, err := listen(cfg.RunDir)
	if err != nil {
		return nil, fmt.Errorf("stop the agent first: %w", err)
	}
	defer l.Close()
	var errs []error
	did := func(what string, err error) {
		if err != nil {
			errs = append(errs, err)
		} else {
			done = append(done, what)
		}
	}
	if cfg.CNIConfDir != "" {
		did("CNI conflist", removeFile(filepath.Join(cfg.CNIConfDir, ConflistName)))
	}
	links, err := veth.NewKernel(tablePods)
	if err != nil {
		return done, err
	}
	defer links.Close()
	pods, err := links.List()
	errs = append(errs, err)
	for _, p := range pods {
		did("Pod interface "+p.Name, links.Delete(p.Name))
	}
	host := hostnet.New(cfg.ProcSysNet, filepath.Join(cfg.StateDir, "sysctls.json"), log)
	did("routes, rules and sysctls", host.Uninstall(cfg.Interface))
	did("interface "+cfg.Interface, hostnet.DeleteLink(cfg.Interface))
	if purge {
		did("state directory "+cfg.StateDir, os.RemoveAll(cfg.StateDir))
	}
	did("run directory "+cfg.RunDir, os.RemoveAll(cfg.RunDir))
	return done, errors.Join(errs...)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
