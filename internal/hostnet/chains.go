package hostnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Chain is a chain of nf_tables. It may come from nft(8) or from iptables-nft(8).
type Chain struct {
	Table, Name string
	Forward     bool // attached to the forward hook
	Drop        bool // its policy is drop
}

// Numbers of linux/netfilter/nf_tables.h.
const (
	nftGetChain    = 4
	nftaChainTable = 1
	nftaChainName  = 3
	nftaChainHook  = 4
	nftaChainPol   = 5
	nftaHookNum    = 1
	hookForward    = 2 // NF_INET_FORWARD
	policyDrop     = 0 // NF_DROP
)

// KubeProxy reports whether kube-proxy translates Services in this chain, in its mode iptables or nftables.
func (c Chain) KubeProxy() bool {
	return c.Name == "KUBE-SERVICES" || c.Name == "KUBE-NODEPORTS" || c.Table == "kube-proxy"
}

// Chains lists all chains of nf_tables; it changes nothing. On a kernel without nf_tables it returns none. The list of a kernel
// whose chains change meanwhile is read again: it may lack chains that exist throughout.
func Chains() ([]Chain, error) { return dump(chains) }

func chains() ([]Chain, error) {
	r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|nftGetChain, unix.NLM_F_DUMP)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	msgs, err := r.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	out := make([]Chain, 0, len(msgs))
	for _, m := range msgs {
		if len(m) < nl.SizeofNfgenmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofNfgenmsg:])
		if err != nil {
			return nil, fmt.Errorf("list chains: %w", err)
		}
		c, policy := Chain{}, uint32(1)
		for _, a := range attrs {
			switch a.Attr.Type &^ unix.NLA_F_NESTED {
			case nftaChainTable:
				c.Table = string(bytes.TrimRight(a.Value, "\x00"))
			case nftaChainName:
				c.Name = string(bytes.TrimRight(a.Value, "\x00"))
			case nftaChainPol:
				if len(a.Value) == 4 {
					policy = binary.BigEndian.Uint32(a.Value)
				}
			case nftaChainHook:
				c.Forward = hooked(a.Value, hookForward)
			}
		}
		c.Drop = policy == policyDrop
		out = append(out, c)
	}
	return out, nil
}

// hooked reports whether a nested NFTA_CHAIN_HOOK names that hook.
func hooked(nested []byte, hook uint32) bool {
	attrs, err := nl.ParseRouteAttr(nested)
	if err != nil {
		return false
	}
	for _, a := range attrs {
		if a.Attr.Type&^unix.NLA_F_NESTED == nftaHookNum && len(a.Value) == 4 {
			return binary.BigEndian.Uint32(a.Value) == hook
		}
	}
	return false
}
