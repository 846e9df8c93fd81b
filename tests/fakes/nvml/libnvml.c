/* The NVIDIA driver's management library, of a machine that FAKE_NVML names: the file $FAKE_NVML.txt has a line
 * "key value" for everything the machine tells (machines.py writes it and says what the keys are). It is read again
 * whenever it was replaced, so a test changes the machine by replacing it. What it does not have is not supported.
 *
 * Only the functions that the hub asks are here: any other is "function not found", as in an older driver.
 */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION "1"
#endif

typedef unsigned int uint;
typedef unsigned long long ull;
typedef int Return;
typedef uintptr_t Device; /* 1 + GPU's index, plus 1000 * (1 + index) of a MIG instance */

enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, VERSION_MISMATCH = 18
};

#define LONGEST_KEY 160

/* -- the machine */

struct entry { const char *key, *value; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *text;
static struct entry *entries;
static size_t count;
static ino_t inode;
static uint sessions;

static int by_key(const void *a, const void *b) {
    return strcmp(((const struct entry *)a)->key, ((const struct entry *)b)->key);
}

static void read_machine(const char *path, const struct stat *found) {
    FILE *file = fopen(path, "r");
    free(text), free(entries);
    text = calloc(1, found->st_size + 1), entries = NULL, count = 0, inode = found->st_ino;
    if (!file || fread(text, 1, found->st_size, file) != (size_t)found->st_size) abort();
    fclose(file);
    size_t lines = 0;
    for (char *c = text; *c; c++) lines += *c == '\n';
    entries = calloc(lines + 1, sizeof *entries);
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n")) && *line) {
        char *space = strchr(line, ' ');
        *space = '\0';
        entries[count++] = (struct entry){line, space + 1};
    }
    qsort(entries, count, sizeof *entries, by_key);
}

/* The value of a key, copied; 0 when the machine has none. */
static int look_up(const char *key, char *value, size_t size) {
    const char *name = getenv("FAKE_NVML");
    char path[4096];
    struct stat found;
    int known = 0;
    snprintf(path, sizeof path, "%s.txt", name ? name : "");
    pthread_mutex_lock(&lock);
    if (stat(path, &found) == 0) {
        if (!text || found.st_ino != inode) read_machine(path, &found);
        struct entry wanted = {key, NULL}, *entry = bsearch(&wanted, entries, count, sizeof *entries, by_key);
        if (entry) known = 1, snprintf(value, size, "%s", entry->value);
    }
    pthread_mutex_unlock(&lock);
    return known;
}

static int number(const char *key, ull *value) {
    char digits[64];
    if (!look_up(key, digits, sizeof digits)) return 0;
    *value = digits[0] == '-' ? (ull)strtoll(digits, NULL, 10) : strtoull(digits, NULL, 10);
    return 1;
}

static Return driver(void) {
    ull loaded = 1;
    char kernel[64];
    number("driver", &loaded);
    if (!getenv("FAKE_NVML") || !loaded) return DRIVER_NOT_LOADED;
    if (look_up("kernel", kernel, sizeof kernel) && strcmp(kernel, VERSION)) return VERSION_MISMATCH;
    return OK;
}

static void key_of(char *key, Device device, const char *path) {
    uint gpu = device % 1000 - 1, instance = device / 1000;
    if (instance) snprintf(key, LONGEST_KEY, "gpus.%u.mig.devices.%u.%s", gpu, instance - 1, path);
    else snprintf(key, LONGEST_KEY, "gpus.%u.%s", gpu, path);
}

static int told(Device device, const char *path, ull *value) {
    char key[LONGEST_KEY];
    key_of(key, device, path);
    return number(key, value);
}

/* What every function of a device says before it looks at what it is asked. */
static Return may(const char *function, Device device) {
    char path[LONGEST_KEY];
    ull value = 0;
    if (!sessions) return UNINITIALIZED;
    if (driver() != OK) return driver();
    snprintf(path, sizeof path, "hang.%s", function);
    while (told(device % 1000, path, &value) && value) usleep(10000);
    if (told(device % 1000, "lost", &value) && value) return value == 1 ? GPU_IS_LOST : (Return)value;
    snprintf(path, sizeof path, "errors.%s", function);
    if (told(device % 1000, path, &value)) return (Return)value;
    return OK;
}

static Return ask(const char *function, Device device, const char *path, ull *value) {
    Return problem = may(function, device);
    if (problem) return problem;
    return told(device, path, value) ? OK : NOT_SUPPORTED;
}

static Return ask_uint(const char *function, Device device, const char *path, uint *value) {
    ull wide;
    Return problem = ask(function, device, path, &wide);
    if (!problem) *value = (uint)wide;
    return problem;
}

static Return ask_text(const char *function, Device device, const char *path, char *value, uint size) {
    char key[LONGEST_KEY];
    Return problem = may(function, device);
    if (problem) return problem;
    key_of(key, device, path);
    return look_up(key, value, size) ? OK : NOT_SUPPORTED;
}

/* -- sessions and devices */

const char *nvmlErrorString(Return error) {
    return error == VERSION_MISMATCH ? "Driver/library version mismatch" : "Fake error";
}

Return nvmlInitWithFlags(uint flags) {
    (void)flags;
    Return problem = driver();
    if (!problem) sessions++;
    return problem;
}

Return nvmlShutdown(void) {
    if (!sessions) return UNINITIALIZED;
    sessions--;
    return OK;
}

Return nvmlDeviceGetCount_v2(uint *value) {
    ull gpus = 0;
    if (!sessions) return UNINITIALIZED;
    if (driver() != OK) return driver();
    number("gpus.#", &gpus);
    *value = (uint)gpus;
    return OK;
}

Return nvmlDeviceGetHandleByIndex_v2(uint index, Device *device) {
    uint gpus;
    Return problem = nvmlDeviceGetCount_v2(&gpus);
    if (problem) return problem;
    if (index >= gpus) return INVALID_ARGUMENT;
    *device = index + 1;
    return may("nvmlDeviceGetHandleByIndex", *device);
}

Return nvmlDeviceGetName(Device device, char *name, uint size) {
    return ask_text("nvmlDeviceGetName", device, "name", name, size);
}

Return nvmlDeviceGetUUID(Device device, char *uuid, uint size) {
    return ask_text("nvmlDeviceGetUUID", device, "uuid", uuid, size);
}

/* -- memory and processes */

struct memory { ull total, free, used; };
struct memory_v2 { uint version; ull total, reserved, free, used; };

Return nvmlDeviceGetMemoryInfo(Device device, struct memory *memory) {
    ull reserved = 0, none;
    if (told(device, "no_memory_info", &none)) return NOT_SUPPORTED;
    Return problem = ask("nvmlDeviceGetMemoryInfo", device, "total", &memory->total);
    if (problem) return problem;
    memory->used = 0;
    told(device, "used", &memory->used);
    told(device, "reserved", &reserved);
    memory->used += reserved;
    memory->free = memory->total - memory->used;
    return OK;
}

Return nvmlDeviceGetMemoryInfo_v2(Device device, struct memory_v2 *memory) {
    struct memory plain;
    ull reserved;
    if (memory->version != (sizeof *memory | 2u << 24)) return INVALID_ARGUMENT;
    Return problem = nvmlDeviceGetMemoryInfo(device, &plain);
    if (problem) return problem;
    if (!told(device, "reserved", &reserved)) return NOT_SUPPORTED;
    memory->total = plain.total, memory->free = plain.free;
    memory->reserved = reserved, memory->used = plain.used - reserved;
    return OK;
}

struct process { uint pid; ull used; uint gpu_instance, compute_instance; };

static Return processes(const char *function, const char *list, Device device, uint *size, struct process *found) {
    char path[LONGEST_KEY];
    ull length = 0, value;
    Return problem = may(function, device);
    if (problem) return problem;
    snprintf(path, sizeof path, "%s.#", list);
    told(device, path, &length);
    uint room = *size;
    *size = (uint)length;
    if (length > room) return INSUFFICIENT_SIZE;
    for (uint i = 0; i < length; i++) {
        snprintf(path, sizeof path, "%s.%u.pid", list, i);
        found[i].pid = told(device, path, &value) ? (uint)value : 0;
        snprintf(path, sizeof path, "%s.%u.used", list, i);
        found[i].used = told(device, path, &value) ? value : ~0ull;
        snprintf(path, sizeof path, "%s.%u.gpu_instance", list, i);
        found[i].gpu_instance = told(device, path, &value) ? (uint)value : ~0u;
        found[i].compute_instance = ~0u;
    }
    return OK;
}

Return nvmlDeviceGetComputeRunningProcesses_v3(Device device, uint *size, struct process *found) {
    return processes("nvmlDeviceGetComputeRunningProcesses", "processes", device, size, found);
}

Return nvmlDeviceGetGraphicsRunningProcesses_v3(Device device, uint *size, struct process *found) {
    return processes("nvmlDeviceGetGraphicsRunningProcesses", "graphics_processes", device, size, found);
}

/* -- functions that give one number each */

#define ONE_NUMBER(function, path) \
    Return function(Device device, uint *value) { return ask_uint(#function, device, path, value); }

ONE_NUMBER(nvmlDeviceGetPowerUsage, "power.usage_mw")
ONE_NUMBER(nvmlDeviceGetEnforcedPowerLimit, "power.enforced_mw")
ONE_NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, "power.default_mw")
ONE_NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, "pcie.generation")
ONE_NUMBER(nvmlDeviceGetCurrPcieLinkWidth, "pcie.width")
ONE_NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, "pcie.max_generation")
ONE_NUMBER(nvmlDeviceGetMaxPcieLinkWidth, "pcie.max_width")
ONE_NUMBER(nvmlDeviceGetFanSpeed, "fan")
ONE_NUMBER(nvmlDeviceGetPerformanceState, "performance_state")
ONE_NUMBER(nvmlDeviceGetComputeMode, "compute_mode")
ONE_NUMBER(nvmlDeviceGetRetiredPagesPendingStatus, "retirement_pending")
ONE_NUMBER(nvmlDeviceGetMaxMigDeviceCount, "mig.count")
ONE_NUMBER(nvmlDeviceGetGpuInstanceId, "gpu_instance")
ONE_NUMBER(nvmlDeviceGetComputeInstanceId, "compute_instance")

#define ONE_OF(function, ...)                                                                  \
    Return function(Device device, uint which, uint *value) {                                  \
        static const char *const paths[] = {__VA_ARGS__};                                      \
        if (which >= sizeof paths / sizeof *paths) return INVALID_ARGUMENT;                     \
        return ask_uint(#function, device, paths[which], value);                                \
    }

ONE_OF(nvmlDeviceGetTemperature, "temperature")
ONE_OF(nvmlDeviceGetTemperatureThreshold, "thresholds.shutdown", "thresholds.slowdown", "thresholds.mem_max",
       "thresholds.gpu_max")
ONE_OF(nvmlDeviceGetClockInfo, "clocks.graphics", "clocks.sm", "clocks.memory")
ONE_OF(nvmlDeviceGetMaxClockInfo, "max_clocks.graphics", "max_clocks.sm", "max_clocks.memory")
ONE_OF(nvmlDeviceGetPcieThroughput, "pcie.sent_kb_s", "pcie.received_kb_s")

#define TWO_NUMBERS(function, first, second)                                                    \
    Return function(Device device, uint *one, uint *other) {                                    \
        Return problem = ask_uint(#function, device, first, one);                               \
        return problem ? problem : ask_uint(#function, device, second, other);                  \
    }

TWO_NUMBERS(nvmlDeviceGetPowerManagementLimitConstraints, "power.min_mw", "power.max_mw")
TWO_NUMBERS(nvmlDeviceGetEccMode, "ecc.current", "ecc.pending")
TWO_NUMBERS(nvmlDeviceGetMigMode, "mig.current", "mig.pending")

Return nvmlDeviceGetUtilizationRates(Device device, uint value[2]) {
    Return problem = ask_uint("nvmlDeviceGetUtilizationRates", device, "utilization.gpu", &value[0]);
    return problem ? problem : ask_uint("nvmlDeviceGetUtilizationRates", device, "utilization.memory", &value[1]);
}

struct margin { uint version; int value; };

Return nvmlDeviceGetMarginTemperature(Device device, struct margin *margin) {
    if (margin->version != (sizeof *margin | 1u << 24)) return INVALID_ARGUMENT;
    return ask_uint("nvmlDeviceGetMarginTemperature", device, "margin", (uint *)&margin->value);
}

Return nvmlDeviceGetCurrentClocksEventReasons(Device device, ull *bits) {
    return ask("nvmlDeviceGetCurrentClocksEventReasons", device, "reasons", bits);
}

Return nvmlDeviceGetCurrentClocksThrottleReasons(Device device, ull *bits) {
    return ask("nvmlDeviceGetCurrentClocksThrottleReasons", device, "throttle_reasons", bits);
}

Return nvmlDeviceGetTotalEccErrors(Device device, uint type, uint counter, ull *errors) {
    char path[LONGEST_KEY];
    snprintf(path, sizeof path, "ecc.counts.%u.%u", counter, type);
    return ask("nvmlDeviceGetTotalEccErrors", device, path, errors);
}

Return nvmlDeviceGetRemappedRows(Device device, uint *corrected, uint *uncorrected, uint *pending, uint *failed) {
    const char *function = "nvmlDeviceGetRemappedRows";
    Return problem = ask_uint(function, device, "remapped.corrected", corrected);
    if (!problem) problem = ask_uint(function, device, "remapped.uncorrected", uncorrected);
    if (!problem) problem = ask_uint(function, device, "remapped.pending", pending);
    return problem ? problem : ask_uint(function, device, "remapped.failed", failed);
}

Return nvmlDeviceGetNvLinkState(Device device, uint link, uint *active) {
    char path[LONGEST_KEY];
    snprintf(path, sizeof path, "nvlink.links.%u.active", link);
    return ask_uint("nvmlDeviceGetNvLinkState", device, path, active);
}

/* -- MIG */

Return nvmlDeviceGetMigDeviceHandleByIndex(Device device, uint index, Device *instance) {
    char path[LONGEST_KEY];
    ull length = 0, places = 0;
    Return problem = may("nvmlDeviceGetMigDeviceHandleByIndex", device);
    if (problem) return problem;
    snprintf(path, sizeof path, "mig.devices.#");
    told(device, path, &length), told(device, "mig.count", &places);
    if (index >= places) return INVALID_ARGUMENT;
    if (index >= length) return NOT_FOUND;
    *instance = device + 1000 * (index + 1);
    return OK;
}

struct attributes {
    uint multiprocessors, copy, decoder, encoder, jpeg, ofa, gpu_slices, compute_slices;
    ull memory_mb;
};

Return nvmlDeviceGetAttributes_v2(Device device, struct attributes *attributes) {
    memset(attributes, 0, sizeof *attributes);
    Return problem = ask_uint("nvmlDeviceGetAttributes_v2", device, "slices", &attributes->gpu_slices);
    return problem ? problem : ask("nvmlDeviceGetAttributes_v2", device, "memory_mb", &attributes->memory_mb);
}

/* -- numbered fields */

struct field {
    uint id, scope;
    int64_t timestamp, latency;
    uint type;
    Return result;
    union { double real; uint narrow; ull wide; } value;
};

enum { UNSIGNED_INT = 1, UNSIGNED_LONG_LONG = 3 };

Return nvmlDeviceGetFieldValues(Device device, int size, struct field *fields) {
    Return problem = may("nvmlDeviceGetFieldValues", device);
    if (problem) return problem;
    for (struct field *field = fields; field < fields + size; field++) {
        char path[LONGEST_KEY] = "";
        ull value;
        field->type = UNSIGNED_INT; /* for limits below zero, too, as some drivers do */
        switch (field->id) {
        case 82: strcpy(path, "memory_temperature"); break;
        case 83: strcpy(path, "energy_mj"), field->type = UNSIGNED_LONG_LONG; break;
        case 90: strcpy(path, "nvlink.common_mb_s"); break;
        case 91: strcpy(path, "nvlink.count"); break;
        case 164: snprintf(path, sizeof path, "nvlink.links.%u.mb_s", field->scope); break;
        case 193: strcpy(path, "tlimits.shutdown"); break;
        case 194: strcpy(path, "tlimits.slowdown"); break;
        case 195: strcpy(path, "tlimits.mem_max"); break;
        case 196: strcpy(path, "tlimits.gpu_max"); break;
        case 197: strcpy(path, "pcie.sent"), field->type = UNSIGNED_LONG_LONG; break;
        case 198: strcpy(path, "pcie.received"), field->type = UNSIGNED_LONG_LONG; break;
        }
        field->result = *path && told(device, path, &value) ? OK : NOT_SUPPORTED;
        if (field->result == OK) {
            field->value.wide = 0;
            if (field->type == UNSIGNED_INT) field->value.narrow = (uint)value;
            else field->value.wide = value;
        }
    }
    return OK;
}
