package plug

import "github.com/warrennet/warren/cni/veth"

// Kernel makes Links of the plugin's own knowledge of its interfaces.
type Kernel struct{ *veth.Kernel }

// List translates veth's links.
func (k Kernel) List() ([]Link, error) {
	links, err := k.Kernel.List()
	out := make([]Link, len(links))
	for i, l := range links {
		out[i] = Link(l)
	}
	return out, err
}
