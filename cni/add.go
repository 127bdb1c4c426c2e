package cni

import (
	"errors"
	"time"

	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
)

// retryEvery is how often ADD looks for an agent that is away.
const retryEvery = 50 * time.Millisecond

// add plugs the Pod. An agent that is away, restarting or not ready yet is waited for; whatever an attempt did is
// undone before the next one.
func (c *call) add() error {
	for end := time.Now().Add(c.wait); ; time.Sleep(retryEvery) {
		err := c.addOnce()
		if err == nil || !transient(err) || time.Now().After(end) {
			return tryAgain(err, c.socket)
		}
	}
}

// transient says whether an error may be gone a moment later.
func transient(err error) bool {
	var e *api.Error
	return errors.Is(err, errAway) || (errors.As(err, &e) && e.Code == api.CodeTryAgain)
}

func tryAgain(err error, socket string) error {
	if errors.Is(err, errAway) {
		return &api.Error{Code: api.CodeTryAgain, Message: "the warren agent of this node does not answer on " + socket, Details: err.Error()}
	}
	return err
}

// addOnce is one attempt: reserve, make the interface, commit, tell the runtime.
func (c *call) addOnce() (err error) {
	var u undo
	defer func() {
		if err != nil {
			err = u.run(err)
		}
	}()
	agent, err := dial(c.socket)
	if err != nil {
		return err
	}
	defer agent.close()

	if err := stage("reserve"); err != nil {
		return err
	}
	// The agent works on the request while the plugin looks for the Pod's namespace.
	if err := agent.send(api.CNIAddPath, c.request()); err != nil {
		return err
	}
	builder, missing := veth.NewBuilder(c.netns)
	if missing == nil {
		defer builder.Close()
	}
	var reserved api.AddReply
	if err := agent.receive(api.CNIAddPath, &reserved); err != nil {
		return err
	}
	u.push(func() error { return c.giveBack(agent) })
	if missing != nil {
		return netnsError(missing)
	}
	spec := c.spec(reserved)
	if err := stage("create"); err != nil {
		return err
	}
	host, pod, err := builder.Create(spec)
	if err != nil {
		return kernelError(err)
	}
	u.push(func() error { return builder.Delete(spec.HostIf) })

	if err := stage("dress"); err != nil {
		return err
	}
	if err := builder.Dress(spec, host, pod); err != nil {
		return kernelError(err)
	}
	if err := stage("commit"); err != nil {
		return err
	}
	if err := agent.send(api.CNICommitPath, api.CommitRequest{Attachment: c.attachment(), MAC: spec.PodMAC.String()}); err != nil {
		return err
	}
	result, err := c.result(spec, reserved.DNS) // while the agent writes the record
	if err != nil {
		return err
	}
	if err := agent.receive(api.CNICommitPath, nil); err != nil {
		return err
	}
	if err := stage("print"); err != nil {
		return err
	}
	return print(c.out, result)
}

func (c *call) request() api.AddRequest {
	q := api.AddRequest{Attachment: c.attachment(), Network: c.network, Netns: c.netns, PodNamespace: c.podNamespace,
		PodName: c.podName, PodUID: c.podUID, IPs: c.ips, Labels: c.labels, DNS: c.podDNS}
	if len(q.IPs) == 0 {
		q.IPs = c.argIPs
	}
	if m := c.wantedMAC(); m != nil {
		q.MAC = m.String()
	}
	return q
}

// giveBack releases at once, so that nothing is held any more when the runtime sees the error. Without an agent it is
// the agent that takes the reservation back, by the end of the connection or when it starts again.
func (c *call) giveBack(agent *client) error {
	err := agent.call(api.CNIDelPath, api.DelRequest{Attachment: c.attachment()}, nil)
	if errors.Is(err, errAway) {
		return nil
	}
	return err
}

// wantedMAC is the capability's address, else that of CNI_ARGS.
func (c *call) wantedMAC() *veth.MAC {
	if c.mac != nil {
		return c.mac
	}
	return c.argMAC
}

func (c *call) spec(r api.AddReply) veth.Spec {
	at := c.attachment()
	pod := ""
	if c.podName != "" {
		pod = c.podNamespace + "/" + c.podName
	}
	s := veth.Spec{HostIf: r.HostIfName, PodIf: c.ifName, MTU: r.MTU, Addresses: r.Addresses, Table: r.Table, Protocol: r.Protocol,
		HostMAC: api.StableMAC("host " + r.HostIfName), PodMAC: api.StableMAC("pod " + r.HostIfName), Alias: veth.Alias(at, pod)}
	if m := c.wantedMAC(); m != nil {
		s.PodMAC = *m
	}
	return s
}

// netnsError tells a runtime whether there is anything to clean up: not where the namespace does not exist.
func netnsError(err error) error {
	switch {
	case errors.Is(err, veth.ErrNoNS):
		return &api.Error{Code: api.CodeUnknown, Message: "CNI_NETNS: " + err.Error()}
	case errors.Is(err, veth.ErrSameNS):
		return &api.Error{Code: api.CodeEnvironment, Message: "CNI_NETNS: " + err.Error()}
	}
	return kernelError(err)
}

func kernelError(err error) error {
	if errors.Is(err, veth.ErrExists) {
		return &api.Error{Code: api.CodeAttached, Message: err.Error()}
	}
	return &api.Error{Code: api.CodeKernel, Message: err.Error()}
}

// undo is the stack of what must be taken back when an ADD fails.
type undo []func() error

func (u *undo) push(f func() error) { *u = append(*u, f) }

// run takes everything back, the last first, and adds to err what could not be.
func (u *undo) run(err error) error {
	for i := len(*u) - 1; i >= 0; i-- {
		if e := (*u)[i](); e != nil {
			out := *asError(err)
			out.Details = join(out.Details, "undo: "+e.Error())
			err = &out
		}
	}
	*u = nil
	return err
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}
