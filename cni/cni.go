// Package cni is warren's CNI plugin: ADD, DEL, CHECK, GC, STATUS and VERSION of the CNI specification 0.3.1 to 1.1.0.
//
// One execution serves one command and holds no state afterwards. ADD is a transaction with the agent:
//
//  1. The plugin connects to the agent's socket and requests addresses. The agent reserves them for the life of the
//     connection.
//  2. The plugin creates the veth pair and configures both ends (package cni/veth).
//  3. The plugin commits. From then on the agent keeps the record without the connection.
//  4. The plugin prints the result for the runtime.
//
// A step that fails deletes the interface and releases the reservation before ADD returns. When the plugin is killed,
// the connection ends, and the agent does both. DEL works without the agent and without the Pod's namespace.
//
// Every reply of the agent is checked: a missing, malformed or out-of-range field fails the command and is named in the
// error.
//
// Start-up is most of the cost of an ADD, so the package does without net, net/http and the reference library's skel.
// Measured, exec to exit, medians of 300: empty Go program 0.93 ms and 1.2 MB; with encoding/json 1.23 ms and 2.1 MB;
// with skel 1.35 ms and 2.6 MB; with net/http 1.69 ms and 6.1 MB.
//
// encoding/json costs an ADD 0.6 ms of CPU time (4.1 instead of 3.5 ms; cni/cnibench, medians of six runs of 150 ADDs in
// turns with a hand-written parser, on two busy cores). The start of a Pod takes about 150 ms, so the standard library's
// parser and its error checks are worth it.
package cni

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/api"
)

// Versions of the specification that the plugin supports, oldest first.
var Versions = []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// maxConfig bounds the configuration on stdin, in bytes. The configuration of GC lists every attachment of the node.
const maxConfig = 4 << 20

// Process is the environment in which a runtime executes the plugin.
type Process struct {
	Getenv func(string) string
	Stdin  io.Reader
	Stdout io.Writer
	// Wait bounds how long ADD waits for an unreachable agent; zero is DefaultWait.
	Wait time.Duration

	// stage, if not nil, is called before each step with the step's name. Tests kill or fail the plugin there.
	stage func(string) error
}

// DefaultWait is a little longer than a restart of the agent takes.
const DefaultWait = 5 * time.Second

// Run executes the command of CNI_COMMAND and returns the exit code. Result and error are printed on Stdout.
func Run(p Process) int {
	version, err := run(p)
	if err == nil {
		return 0
	}
	e := asError(err)
	_ = print(p.Stdout, struct { // the exit code is all that is left when this fails
		CNIVersion string `json:"cniVersion"`
		Code       int    `json:"code"`
		Msg        string `json:"msg"`
		Details    string `json:"details,omitempty"`
	}{version, e.Code, e.Message, e.Details})
	return 1
}

// run executes the command. The version it returns is the one in which to print an error.
func run(p Process) (string, error) {
	latest := Versions[len(Versions)-1]
	raw, err := io.ReadAll(io.LimitReader(p.Stdin, maxConfig+1))
	if err != nil {
		return latest, &api.Error{Code: api.CodeIO, Message: "cannot read the configuration", Details: err.Error()}
	}
	if len(raw) > maxConfig {
		return latest, &api.Error{Code: api.CodeDecode, Message: fmt.Sprintf("the configuration is longer than %d bytes", maxConfig)}
	}
	command := p.Getenv("CNI_COMMAND")
	if command == "VERSION" {
		return latest, printVersion(p.Stdout, raw)
	}
	since, ok := map[string]string{"ADD": "0.3.1", "DEL": "0.3.1", "CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}[command]
	if !ok {
		return latest, &api.Error{Code: api.CodeEnvironment,
			Message: fmt.Sprintf("CNI_COMMAND is %q, expected ADD, DEL, CHECK, GC, STATUS or VERSION", command)}
	}
	conf, err := parseConfig(raw)
	if err != nil {
		return latest, err
	}
	if slices.Index(Versions, conf.version) < slices.Index(Versions, since) {
		return conf.version, &api.Error{Code: api.CodeVersion, Message: fmt.Sprintf("command %s does not exist in CNI %s", command,
			conf.version)}
	}
	env, err := parseEnv(command, p.Getenv)
	if err != nil {
		return conf.version, err
	}
	c := &call{config: conf, env: env, out: p.Stdout, wait: cmp.Or(p.Wait, DefaultWait), stage: p.stage}
	if c.stage == nil {
		c.stage = func(string) error { return nil }
	}
	return conf.version, map[string]func() error{"ADD": c.add, "DEL": c.del, "CHECK": c.check, "GC": c.gc, "STATUS": c.status}[command]()
}

// call is one execution of the plugin.
type call struct {
	config
	env
	out   io.Writer
	wait  time.Duration
	stage func(string) error
}

func (c *call) attachment() api.Attachment {
	return api.Attachment{ContainerID: c.containerID, IfName: c.ifName}
}

func printVersion(w io.Writer, document []byte) error {
	var out struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}
	if len(document) > 0 {
		if err := json.Unmarshal(document, &out); err != nil {
			return &api.Error{Code: api.CodeDecode, Message: "cannot read the configuration", Details: err.Error()}
		}
	}
	out.CNIVersion = cmp.Or(out.CNIVersion, Versions[len(Versions)-1])
	out.SupportedVersions = Versions
	return print(w, out)
}

func asError(err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		return e
	}
	return &api.Error{Code: api.CodeInternal, Message: err.Error()}
}
