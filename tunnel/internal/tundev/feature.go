package tundev

import "golang.org/x/sys/unix"

// feature is a set of kernel offloads of the TUN.
type feature uint8

const (
	featVnet   feature = 1 << iota // packets have a virtio header
	featCsum                       // the kernel may leave checksums to the process
	featTSO                        // TCP super-packets from the kernel
	featECN                        // TCP super-packets with CWR, too
	featUSO                        // UDP super-packets from the kernel
	featTCPGRO                     // TCP super-packets to the kernel
	featUDPGRO                     // UDP super-packets to the kernel
	featAll    = featVnet | featCsum | featTSO | featECN | featUSO | featTCPGRO | featUDPGRO
)

var featureNames = []struct {
	f    feature
	name string
}{
	{featVnet, "vnet"}, {featCsum, "csum"}, {featTSO, "tso"}, {featECN, "ecn"}, {featUSO, "uso"},
	{featTCPGRO, "tcp-gro"}, {featUDPGRO, "udp-gro"},
}

func (f feature) names() []string {
	var out []string
	for _, n := range featureNames {
		if f&n.f != 0 {
			out = append(out, n.name)
		}
	}
	return out
}

// tunFlags returns the argument of TUNSETOFFLOAD: what the kernel may pass to the process.
func (f feature) tunFlags() int {
	flags := 0
	if f&featCsum != 0 {
		flags |= unix.TUN_F_CSUM
	}
	if f&featTSO != 0 {
		flags |= unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	}
	if f&featECN != 0 {
		flags |= unix.TUN_F_TSO_ECN
	}
	if f&featUSO != 0 {
		flags |= unix.TUN_F_USO4 | unix.TUN_F_USO6
	}
	return flags
}

// weakest returns the feature that kernels support since the latest version: the first one to switch off.
func (f feature) weakest() feature {
	for _, s := range []feature{featUSO, featECN, featTSO, featCsum} {
		if f&s != 0 {
			return s
		}
	}
	return 0
}
