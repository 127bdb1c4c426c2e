package agent

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/warrennet/warren/agent/apply"
	"github.com/warrennet/warren/agent/localapi"
	"github.com/warrennet/warren/internal/atomicfile"
	"github.com/warrennet/warren/internal/systemd"
)

// ConflistName sorts before the files of other plugins: runtimes take the first one of the directory.
const ConflistName = "05-warren.conflist"

// conflist is the CNI network configuration list of warren. Older runtimes ignore
// cniVersions and refuse 1.1.0, so cniVersion is 1.0.0.
func (a *Agent) conflist() ([]byte, error) {
	plugin := map[string]any{
		"type":         "warren-cni",
		"capabilities": map[string]bool{"ips": true, "mac": true, "dns": true, "portMappings": true},
	}
	if s := filepath.Join(a.cfg.RunDir, localapi.SocketName); s != "/run/warren/"+localapi.SocketName {
		plugin["socket"] = s
	}
	return json.MarshalIndent(map[string]any{
		"cniVersion":  "1.0.0",
		"cniVersions": []string{"1.0.0", "1.1.0"},
		"name":        "warren",
		"plugins":     []any{plugin},
	}, "", "  ")
}

// writeConflist writes the file once Pods can be attached. It stays when the agent stops; only Uninstall removes it.
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

// offerPlugin lets runtimes find the plugin. It is called before the node reports that Pods can be attached.
func (a *Agent) offerPlugin() {
	if err := a.writeConflist(); err != nil {
		a.log.Error("cannot write the CNI conflist; runtimes will not find warren", "err", err)
	}
}

// becameReady is called once, after the first plan is applied as a whole.
func (a *Agent) becameReady(s *apply.State) {
	a.log.Info("this node can attach Pods", "node", a.cfg.NodeName, "cidrs", a.member.Blocks(), "mtu", s.Plan.MTU)
	systemd.Notify(systemd.Ready)
}
