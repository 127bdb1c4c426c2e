package agent

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/warrennet/warren/internal/atomicfile"
	"github.com/warrennet/warren/internal/systemd"
)

// ConflistName sorts before the files of other plugins: runtimes take the first one of the directory.
const ConflistName = "05-warren.conflist"

// conflist is the CNI network configuration list of warren. A plain 1.1.0 would be refused by older runtimes, which do
// not look at cniVersions.
func (a *Agent) conflist() ([]byte, error) {
	plugin := map[string]any{
		"type":         "warren-cni",
		"capabilities": map[string]bool{"ips": true, "mac": true, "dns": true, "portMappings": true},
	}
	if s := filepath.Join(a.cfg.RunDir, SocketName); s != "/run/warren/"+SocketName {
		plugin["socket"] = s
	}
	return json.MarshalIndent(map[string]any{
		"cniVersion":  "1.0.0",
		"cniVersions": []string{"1.0.0", "1.1.0"},
		"name":        "warren",
		"plugins":     []any{plugin},
	}, "", "  ")
}

// writeConflist puts the file in place once Pods can be plugged. It stays across restarts; only Uninstall removes it.
func (a *Agent) writeConflist() error {
	if a.cfg.CNIConfDir == "" {
		return nil
	}
	raw, err := a.conflist()
	if err != nil {
		return err
	}
	raw = append(raw, '\n')
	path := filepath.Join(a.cfg.CNIConfDir, ConflistName)
	if have, err := os.ReadFile(path); err == nil && string(have) == string(raw) {
		return nil
	}
	if err := os.MkdirAll(a.cfg.CNIConfDir, 0o755); err != nil {
		return err
	}
	return atomicfile.Write(path, raw, 0o644)
}

// becameReady is called once, after the first plan was applied as a whole.
func (a *Agent) becameReady() {
	a.log.Info("ready", "node", a.cfg.NodeName, "podCIDRs", a.member.Blocks(), "mtu", a.applied.Load().plan.MTU)
	systemd.Notify(systemd.Ready)
}

// offerPlugin lets runtimes find the plugin.
func (a *Agent) offerPlugin() {
	if err := a.writeConflist(); err != nil {
		a.log.Error("cannot write the CNI conflist; runtimes will not find warren", "err", err)
	}
}
