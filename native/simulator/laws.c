// SPDX-License-Identifier: Apache-2.0
/* How simulated values move with time. */
#include <math.h>

#include "simulator.h"

static double seconds_between(uint64_t from_ns, uint64_t to_ns)
{
	return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e9 : 0.0;
}

static double within(const struct simulated_value *law, double value)
{
	if (value < law->low)
		return law->low;
	return value > law->high ? law->high : value;
}

double simulation_law(const struct simulated_value *law, uint64_t now_ns)
{
	double elapsed_s = seconds_between(law->since_ns, now_ns);
	double value = law->base + law->rate_per_s * elapsed_s;

	if (law->wobble != 0.0 && law->period_s > 0.0)
		value += law->wobble * sin(2.0 * M_PI * elapsed_s / law->period_s);
	return within(law, value);
}

/* Seconds until a moving value reaches its end, after which it stands still. */
static double seconds_to_end(const struct simulated_value *law)
{
	double end = law->rate_per_s > 0.0 ? law->high : law->low;

	return law->rate_per_s != 0.0 ? fmax((end - law->base) / law->rate_per_s, 0.0) : INFINITY;
}

/* The law's integral from its start to `elapsed_s` later. */
static double integral(const struct simulated_value *law, double elapsed_s)
{
	double moving_s = fmin(elapsed_s, seconds_to_end(law));
	double sum = law->base * moving_s + law->rate_per_s * moving_s * moving_s / 2.0;

	if (elapsed_s > moving_s)
		sum += (law->rate_per_s > 0.0 ? law->high : law->low) * (elapsed_s - moving_s);
	if (law->wobble != 0.0 && law->period_s > 0.0) {
		double turns = 2.0 * M_PI / law->period_s;

		sum += law->wobble * (1.0 - cos(turns * elapsed_s)) / turns;
	}
	return sum;
}

double eagle_eye_simulation_law(const struct simulated_value *law, uint64_t now_ns)
{
	return simulation_law(law, now_ns);
}

double eagle_eye_simulation_energy(const struct simulated_device *device, uint64_t now_ns)
{
	struct simulated_value part[SIMULATED_ENERGY_JOULES - SIMULATED_POWER_WATTS + 1];
	const struct simulated_value *power = &part[0];
	const struct simulated_value *energy = &part[SIMULATED_ENERGY_JOULES - SIMULATED_POWER_WATTS];

	simulation_copy(device, part, &device->value[SIMULATED_POWER_WATTS], sizeof(part));
	if (isnan(power->base))
		return energy->base;
	return energy->base + integral(power, seconds_between(power->since_ns, now_ns)) -
	       integral(power, seconds_between(power->since_ns, energy->since_ns));
}

/* Most values stand still and need no clock; samplers ask for thousands a second. */
static double now_value(const struct simulated_device *device, const struct simulated_value *at)
{
	struct simulated_value law;

	simulation_copy(device, &law, at, sizeof(law));
	if (isnan(law.base))
		return NAN;
	if (law.rate_per_s == 0.0 && law.wobble == 0.0)
		return within(&law, law.base);
	return simulation_law(&law, simulation_clock_ns());
}

double simulation_value(const struct simulated_device *device, enum simulated_quantity quantity)
{
	if (quantity == SIMULATED_ENERGY_JOULES)
		return eagle_eye_simulation_energy(device, simulation_clock_ns());
	return now_value(device, &device->value[quantity]);
}

double simulation_link_value(const struct simulated_device *device, uint32_t link, enum simulated_link_quantity of)
{
	if (link >= SIMULATED_LINKS || !device->link[link].present)
		return NAN;
	return now_value(device, &device->link[link].value[of]);
}

double simulation_memory_used(const struct simulated_device *device)
{
	double used = simulation_value(device, SIMULATED_MEMORY_USED_BYTES);

	for (int n = 0; n < SIMULATED_PROCESSES; n++)
		used += device->process[n].pid ? (double)device->process[n].memory_bytes : 0.0;
	for (int n = 0; n < SIMULATED_INSTANCES; n++)
		used += device->instance[n].present ? (double)device->instance[n].memory_used_bytes : 0.0;
	return fmin(used, simulation_value(device, SIMULATED_MEMORY_TOTAL_BYTES));
}
