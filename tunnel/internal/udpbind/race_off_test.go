//go:build !race

package udpbind

const raceOn = false
