package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/agent/localapi"
	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/tunnel"
)

// UninstallOptions has what the agent's configuration does not.
type UninstallOptions struct {
	Purge   bool   // remove the state directory, too
	Plugin  string // the CNI plugin's file
	Results string // where runtimes cache plugins' results
}

// Uninstall removes everything that warren has installed on the node, and returns the names of what it removed. It succeeds for
// what is already removed, and continues after a failure. It refuses while an agent runs, which would install everything again.
func Uninstall(cfg config.Config, o UninstallOptions, log *slog.Logger) (done []string, err error) {
	l, err := localapi.Lock(cfg.RunDir)
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
	if o.Plugin != "" {
		did("CNI plugin", removeFile(o.Plugin))
	}
	links, err := veth.NewKernel(plan.TablePods)
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
	did("interface "+cfg.Interface, tunnel.Delete(cfg.Interface, lockFile(&cfg)))
	if o.Purge {
		did("state directory "+cfg.StateDir, os.RemoveAll(cfg.StateDir))
		if o.Results != "" {
			did("cached results of the plugin", removeResults(o.Results))
		}
	}
	did("run directory "+cfg.RunDir, os.RemoveAll(cfg.RunDir))
	if cfg.UAPIDir != "" {
		did("socket of wg", removeFile(filepath.Join(cfg.UAPIDir, cfg.Interface+".sock")))
		_ = os.Remove(cfg.UAPIDir) // fails if another socket is in it
	}
	return done, errors.Join(errs...)
}

// removeResults removes what libcni caches of each attachment until a DEL, which is not called for warren any more.
func removeResults(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "warren-*"))
	for _, f := range files {
		err = errors.Join(err, removeFile(f))
	}
	return err
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// lockFile is held as long as the tunnel uses the interface.
func lockFile(cfg *config.Config) string { return filepath.Join(cfg.RunDir, cfg.Interface+".lock") }
